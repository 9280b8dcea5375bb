package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode"

	"gantry/internal/printable"
)

// labelsKey holds a record's labels for its method Label; it is no field of the format.
const labelsKey = ""

// record is what a --format template sees of one object: docker's field names and their text.
type record map[string]any

// Label returns the value of one label: {{.Label "name"}}.
func (r record) Label(name string) string {
	labels, _ := r[labelsKey].(map[string]string)
	return labels[name]
}

// printable is a record whose texts are safe to print.
func (r record) printable() record {
	for name, value := range r {
		switch v := value.(type) {
		case string:
			r[name] = printable.Text(v)
		case map[string]string:
			labels := make(map[string]string, len(v))
			for key, text := range v {
				labels[printable.Text(key)] = printable.Text(text)
			}
			r[name] = labels
		}
	}
	return r
}

// MarshalJSON leaves out what is no field.
func (r record) MarshalJSON() ([]byte, error) {
	fields := make(map[string]any, len(r))
	for name, value := range r {
		if name != labelsKey {
			fields[name] = value
		}
	}
	return json.Marshal(fields)
}

// headings is what a table's template sees to make the first line: field name to heading.
type headings map[string]string

// Label makes a heading of a label's name, as docker does: com.example.some-thing is "some thing".
func (headings) Label(name string) string {
	last := name[strings.LastIndex(name, ".")+1:]
	return strings.NewReplacer("-", " ", "_", " ").Replace(last)
}

// listing describes how a command lists its objects.
type listing struct {
	headings headings
	table    string // the default columns, a template
	id       string // the field that -q prints
}

// list prints records in format: "" or table (the default columns), "table TEMPLATE", json, or a template for each line.
func (a *app) list(l listing, format string, quiet bool, records []record) error {
	table, asTable := l.table, true
	switch custom, isTable := strings.CutPrefix(format, "table "); {
	case quiet && (format == "" || format == "table"):
		table, asTable = "{{."+l.id+"}}", false
	case isTable:
		table = custom
	case format == "json":
		table, asTable = "{{json .}}", false
	case format != "" && format != "table":
		table, asTable = format, false
	}
	parsed, err := parseFormat(table)
	if err != nil {
		return err
	}
	var out io.Writer = a.out
	if asTable {
		tabs := tabwriter.NewWriter(a.out, 10, 1, 3, ' ', 0)
		defer func() { _ = tabs.Flush() }()
		out = tabs
		heading := template.Must(parsed.Clone()).Funcs(headingFuncs())
		if err := heading.Execute(out, l.headings); err != nil {
			return fmt.Errorf("format: %w", err)
		}
		if _, err := io.WriteString(out, "\n"); err != nil {
			return err
		}
	}
	for _, r := range records {
		if err := executeLine(out, parsed, r.printable()); err != nil {
			return err
		}
	}
	return nil
}

// executeLine prints one object and a line end; nothing of it when the template fails.
func executeLine(out io.Writer, t *template.Template, data any) error {
	var line bytes.Buffer
	if err := t.Execute(&line, data); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	line.WriteByte('\n')
	_, err := out.Write(line.Bytes())
	return err
}

// parseFormat makes a template with docker's functions; \t and \n in it are what they stand for.
func parseFormat(format string) (*template.Template, error) {
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	t, err := template.New("format").Funcs(formatFuncs()).Option("missingkey=error").Parse(format)
	if err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	return t, nil
}

func formatFuncs() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			var buf bytes.Buffer
			enc := json.NewEncoder(&buf)
			enc.SetEscapeHTML(false)
			err := enc.Encode(v)
			return strings.TrimSpace(buf.String()), err
		},
		"split":    strings.Split,
		"join":     joinAny,
		"title":    title,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"pad":      pad,
		"truncate": truncate,
	}
}

// headingFuncs leave a heading alone where the values are worked on.
func headingFuncs() template.FuncMap {
	same := func(heading string, _ ...any) string { return heading }
	return template.FuncMap{
		"json": same, "title": same, "lower": same, "upper": same, "join": same, "pad": pad,
		"truncate": same, "split": func(heading, _ string) []string { return []string{heading} },
	}
}

// joinAny joins a list of strings, or of anything that prints.
func joinAny(list any, separator string) (string, error) {
	switch l := list.(type) {
	case []string:
		return strings.Join(l, separator), nil
	case []any:
		parts := make([]string, len(l))
		for i, part := range l {
			parts[i] = fmt.Sprint(part)
		}
		return strings.Join(parts, separator), nil
	}
	return "", fmt.Errorf("join: cannot join %T", list)
}

// title makes the first letter of every word upper case.
func title(s string) string {
	before := ' '
	return strings.Map(func(r rune) rune {
		defer func() { before = r }()
		if unicode.IsLetter(before) || unicode.IsDigit(before) || before == '_' || before == '\'' {
			return r
		}
		return unicode.ToTitle(r)
	}, s)
}

// maxPad bounds the spaces that a format may ask for.
const maxPad = 1000

func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", min(max(before, 0), maxPad)) + s + strings.Repeat(" ", min(max(after, 0), maxPad))
}

func truncate(s string, length int) string {
	runes := []rune(s)
	if length < 0 || len(runes) <= length {
		return s
	}
	return string(runes[:length])
}
