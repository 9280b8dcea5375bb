package docker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	images "gantry/internal/image"
	"gantry/internal/printable"
)

// message is one line of a progress stream.
type message struct {
	Stream   string               `json:"stream,omitempty"`
	Status   string               `json:"status,omitempty"`
	Progress *jsonstream.Progress `json:"progressDetail,omitempty"`
	Bar      string               `json:"progress,omitempty"` // the drawn form, until 1.52
	ID       string               `json:"id,omitempty"`
	Error    *jsonstream.Error    `json:"errorDetail,omitempty"`
	Reason   string               `json:"error,omitempty"` // the same error for the oldest clients
}

// progressStream writes progress as lines of JSON, at the client's pace: a client that does not read holds up nothing but
// its own stream, since others may wait for the same transfer. Its methods are safe for several goroutines at once.
type progressStream struct {
	w *response

	mu      sync.Mutex // guards what follows
	last    map[string]reported
	pending []message     // not written yet; of the numbers of one layer, the newest
	writing chan struct{} // nil, or closed when the goroutine that writes has ended
	err     error         // the first failure to write; nothing is written after it
}

type reported struct {
	status string
	at     time.Time
}

// progressInterval is how often at most the numbers of one layer are sent; a change of its status always is.
const progressInterval = 100 * time.Millisecond

func newProgressStream(w *response) *progressStream {
	w.Header()["Content-Type"] = []string{"application/json"}
	return &progressStream{w: w, last: map[string]reported{}}
}

func (p *progressStream) send(m message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enqueue(m)
}

// enqueue has m written, in the place of numbers that are out of date by it. mu is held.
func (p *progressStream) enqueue(m message) {
	if m.ID != "" {
		for i := range p.pending {
			if old := &p.pending[i]; old.ID == m.ID && old.Status == m.Status {
				*old = m
				return
			}
		}
	}
	p.pending = append(p.pending, m)
	if p.writing == nil {
		p.writing = make(chan struct{})
		go p.write(p.writing)
	}
}

// write writes until nothing is pending.
func (p *progressStream) write(ended chan struct{}) {
	defer close(ended)
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.pending) > 0 && p.err == nil {
		batch := p.pending
		p.pending = nil
		p.mu.Unlock()
		var err error
		for _, m := range batch {
			if err = p.w.line(m); err != nil {
				break
			}
		}
		p.mu.Lock()
		p.err = err
	}
	p.pending, p.writing = nil, nil
}

// report is the callback for a backend.
func (p *progressStream) report(e images.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if l, ok := p.last[e.ID]; ok && l.status == e.Status && now.Sub(l.at) < progressInterval && e.Current != e.Total {
		return
	}
	p.last[e.ID] = reported{e.Status, now}
	m := message{ID: e.ID, Status: e.Status}
	if e.ID != "" {
		m.Progress = &jsonstream.Progress{Current: e.Current, Total: e.Total}
		if p.w.version < v(52) {
			m.Bar = bar(e.Current, e.Total)
		}
	}
	p.enqueue(m)
}

// flush returns when everything is written, or cannot be.
func (p *progressStream) flush() error {
	p.mu.Lock()
	for p.writing != nil {
		ended := p.writing
		p.mu.Unlock()
		<-ended
		p.mu.Lock()
	}
	defer p.mu.Unlock()
	return p.err
}

// finish ends the stream: with an error in it if it has begun, else the error is the request's. The response is not used
// after it.
func (p *progressStream) finish(err error) error {
	writeErr := p.flush()
	if err == nil || !p.w.started {
		return err
	}
	text := printable.Text(err.Error())
	p.send(message{Error: &jsonstream.Error{Message: text}, Reason: text})
	if writeErr = errors.Join(writeErr, p.flush()); writeErr != nil {
		slog.Debug("the client did not wait for an error", "error", errors.Join(err, writeErr))
	}
	return nil
}

// bar draws 50 columns of progress.
func bar(current, total int64) string {
	if current <= 0 {
		return ""
	}
	done := units.HumanSize(float64(current))
	if total <= 0 || current > total {
		return fmt.Sprintf("%8v", done)
	}
	n := int(float64(current) / float64(total) * 50)
	arrow := ">"
	if n == 50 {
		arrow = ""
	}
	return fmt.Sprintf("[%s%s%s] %8v/%v", strings.Repeat("=", n), arrow, strings.Repeat(" ", 50-n-len(arrow)), done, units.HumanSize(float64(total)))
}

// imageCreate pulls an image.
func (s *server) imageCreate(w *response, r *http.Request) error {
	q := r.URL.Query()
	if q.Get("fromImage") == "" {
		if q.Get("fromSrc") != "" {
			return missing("importing an image from a file system archive")(w, r)
		}
		return badRequest("one of the parameters fromImage and fromSrc is needed")
	}
	ref, err := pullReference(q.Get("fromImage"), q.Get("tag"))
	if err != nil {
		return err
	}
	p, err := platform(q)
	if err != nil {
		return err
	}
	auth, err := credentials(r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	before := ""
	if im, err := s.backend.InspectImage(r.Context(), ref.String(), p); err == nil {
		before = im.ID
	}
	return s.pull(w, r, ref, p, auth, before)
}

// pull streams the progress of pulling ref; before is the ID of the image that bears the name now, or "".
func (s *server) pull(w *response, r *http.Request, ref reference.Named, p *ocispec.Platform, auth *images.Auth, before string) error {
	stream := newProgressStream(w)
	defer func() { _ = stream.flush() }() // even if the backend panics
	var begin sync.Once
	img, err := s.backend.PullImage(r.Context(), ref.String(), p, auth, func(e images.Progress) {
		begin.Do(func() {
			if !strings.HasPrefix(e.Status, "Pulling from ") {
				stream.send(pullingFrom(ref))
			}
		})
		stream.report(e)
	})
	if err != nil {
		return stream.finish(err)
	}
	begin.Do(func() { stream.send(pullingFrom(ref)) })
	stream.send(message{Status: "Digest: " + img.ID.String()})
	status := "Status: Downloaded newer image for "
	if before == img.ID.String() {
		status = "Status: Image is up to date for "
	}
	stream.send(message{Status: status + reference.FamiliarString(ref)})
	return stream.finish(nil)
}

// pullReference joins a name with a tag or a digest ("sha256:…"); the name may hold them already.
func pullReference(name, tag string) (reference.Named, error) {
	full := name
	switch {
	case strings.Contains(tag, ":"):
		full += "@" + tag
	case tag != "":
		full += ":" + tag
	}
	ref, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil, badRequest("invalid reference %q: %w", full, err)
	}
	if reference.IsNameOnly(ref) {
		// The API pulls every tag then. To pull only one, silently, would be another thing than what was asked.
		return nil, notImplemented("pulling all tags of " + reference.FamiliarName(ref) + " (give a tag, such as latest)")
	}
	return ref, nil
}

// pullingFrom is the first line of a pull: "12: Pulling from library/debian".
func pullingFrom(ref reference.Named) message {
	m := message{Status: "Pulling from " + reference.Path(ref)}
	if d, ok := ref.(reference.Digested); ok {
		m.ID = d.Digest().String()
	} else if t, ok := ref.(reference.Tagged); ok {
		m.ID = t.Tag()
	}
	return m
}

// imageLoad imports an archive from the body, which has no bound: the image store bounds what it unpacks.
func (s *server) imageLoad(w *response, r *http.Request) error {
	q := r.URL.Query()
	if q.Has("platform") {
		return missing("loading single platforms of an archive")(w, r)
	}
	// Progress is sent while the archive is still coming in.
	if err := http.NewResponseController(w.ResponseWriter).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("answer while reading: %w", err)
	}
	defer drain(w, r)
	stream := newProgressStream(w)
	defer func() { _ = stream.flush() }() // even if the backend panics
	report := stream.report
	if boolean(q, "quiet") {
		report = func(images.Progress) {}
	}
	loaded, err := s.backend.LoadImages(r.Context(), requestBody{r.Body}, report)
	for _, img := range loaded {
		for _, line := range loadedLines(img) {
			stream.send(message{Stream: line})
		}
	}
	return stream.finish(err)
}

// drainTime is how long a client may go on sending an archive after it was found bad.
const drainTime = 10 * time.Second

// drain reads what is left of a body. The server cannot do it itself where answers and bodies overlap: it would start to
// wait for the connection's end and for the next request at once, and panic.
func drain(w *response, r *http.Request) {
	control := http.NewResponseController(w.ResponseWriter)
	err := control.SetReadDeadline(time.Now().Add(drainTime))
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
	}
	if err == nil {
		err = control.SetReadDeadline(time.Time{})
	}
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		slog.Debug("a body was not read to its end", "path", r.URL.Path, "error", err)
	}
}

// loadedLines tells the names that the archive gave an image, or its ID if it gave none.
func loadedLines(img images.Loaded) []string {
	if len(img.Loaded) == 0 {
		return []string{"Loaded image ID: " + img.ID.String() + "\n"}
	}
	lines := make([]string, len(img.Loaded))
	for i, name := range img.Loaded {
		if ref, err := reference.ParseNormalizedNamed(name); err == nil {
			name = reference.FamiliarString(ref)
		}
		lines[i] = "Loaded image: " + name + "\n"
	}
	return lines
}
