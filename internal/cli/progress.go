package cli

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"

	"gantry/internal/printable"
)

// barWidth is the number of cells of a progress bar.
const barWidth = 30

// progress draws the messages of a pull or load: a line for each id, rewritten in place on a terminal; elsewhere one
// line for each change of status, without the running counts.
type progress struct {
	out      io.Writer
	terminal bool
	width    int
	height   int
	order    []string
	lines    map[string]string
}

// showProgress draws messages until their end and returns the first error among them.
func showProgress(ctx context.Context, out io.Writer, messages iter.Seq2[jsonstream.Message, error]) error {
	p := progress{out: out, lines: map[string]string{}, width: 80, height: 24}
	if file, ok := out.(*os.File); ok {
		_, p.terminal = terminalOf(file)
		if h, w := terminalSize(file); h > 0 && w > 0 {
			p.height, p.width = int(h), int(w)
		}
	}
	for message, err := range messages {
		switch {
		case err != nil:
			return fmt.Errorf("read the engine's progress: %w", err)
		case message.Error != nil:
			return message.Error
		}
		if err := p.show(message); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (p *progress) show(m jsonstream.Message) error {
	if m.Stream != "" {
		return p.write(printable.Text(m.Stream))
	}
	if m.Status == "" {
		return nil
	}
	if m.ID == "" {
		p.order, p.lines = nil, map[string]string{} // what follows starts below this line
		return p.write(printable.Line(m.Status) + "\n")
	}
	line := printable.Line(m.ID) + ": " + printable.Line(m.Status)
	if !p.terminal {
		if p.lines[m.ID] == line {
			return nil
		}
		p.lines[m.ID] = line
		return p.write(line + "\n")
	}
	return p.rewrite(m.ID, clip(line+bar(m.Progress), p.width))
}

// rewrite puts line at the place of id, which is found by counting lines up from the cursor.
func (p *progress) rewrite(id, line string) error {
	if _, known := p.lines[id]; !known {
		p.order = append(p.order, id)
		p.lines[id] = line
		return p.write(line + "\n")
	}
	if p.lines[id] == line {
		return nil
	}
	p.lines[id] = line
	up := len(p.order)
	for _, other := range p.order {
		if other == id {
			break
		}
		up--
	}
	if up >= p.height {
		return nil // it has scrolled off the screen, where the cursor cannot go
	}
	return p.write(fmt.Sprintf("\x1b[%dA\r\x1b[2K%s\r\x1b[%dB", up, line, up))
}

func (p *progress) write(s string) error {
	_, err := io.WriteString(p.out, s)
	return err
}

// bar draws [=====>    ] 12MB/34MB.
func bar(p *jsonstream.Progress) string {
	if p == nil || p.Current <= 0 && p.Total <= 0 {
		return ""
	}
	count := func(n int64) string {
		if p.Units != "" {
			return fmt.Sprintf("%d %s", n, p.Units)
		}
		return units.HumanSize(float64(n))
	}
	if p.Total <= 0 || p.Current > p.Total {
		return "  " + count(p.Current)
	}
	filled := int(float64(p.Current) / float64(p.Total) * barWidth)
	drawn := strings.Repeat("=", filled)
	if filled < barWidth {
		drawn += ">" + strings.Repeat(" ", barWidth-filled-1)
	}
	if p.HideCounts {
		return "  [" + drawn + "]"
	}
	return fmt.Sprintf("  [%s] %s/%s", drawn, count(p.Current), count(p.Total))
}

// clip keeps a line from wrapping, which would spoil the counting of lines.
func clip(s string, width int) string {
	runes := []rune(s)
	if len(runes) < width || width <= 0 {
		return s
	}
	return string(runes[:width-1])
}
