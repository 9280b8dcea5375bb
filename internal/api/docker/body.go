package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"unicode/utf8"
)

const (
	maxBody  = 4 << 20 // bytes of a JSON body
	maxDepth = 64      // nesting of a JSON value; the API's own bodies nest less than 10 deep
)

// readJSON decodes the body, which must be there, be application/json and hold exactly one value.
func readJSON(w *response, r *http.Request, into any) error {
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		// A browser may post only other types to a foreign origin unasked, so this check also keeps web pages out.
		if media, _, err := mime.ParseMediaType(ct); err != nil || media != "application/json" {
			return badRequest("unsupported Content-Type header (%s): must be 'application/json'", ct)
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w.ResponseWriter, requestBody{r.Body}, maxBody))
	if err != nil {
		return fmt.Errorf("read request body: %w", err)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return badRequest("invalid JSON: got EOF while reading request body")
	}
	return unmarshal(body, into)
}

// requestBody is a body whose errors are the client's: it sent less than it announced, a chunk that is none, or left.
type requestBody struct{ io.ReadCloser }

func (b requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = badRequest("%w", err)
	}
	return n, err
}

// readOptionalJSON is readJSON for a body that may be left out.
func readOptionalJSON(w *response, r *http.Request, into any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return readJSON(w, r, into)
}

// unmarshal is json.Unmarshal with a bound on depth; trailing data is an error, and so is what is no UTF-8 (RFC 8259,
// section 8.1): json.Unmarshal would put other characters in its place, in names and arguments too.
func unmarshal(data []byte, into any) error {
	if depth(data) > maxDepth {
		return badRequest("invalid JSON: nested deeper than %d levels", maxDepth)
	}
	if !utf8.Valid(data) {
		return badRequest("invalid JSON: not UTF-8")
	}
	if err := json.Unmarshal(data, into); err != nil {
		return badRequest("invalid JSON: %w", err)
	}
	return nil
}

// depth is the deepest nesting of brackets outside of strings. It is exact for valid JSON; the rest fails to decode.
func depth(data []byte) int {
	level, deepest, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		c := data[i]
		switch {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encode appends v as JSON and a newline to a buffer from the pool, which the caller returns by release.
func encode(v any) (*bytes.Buffer, error) {
	buf := buffers.Get().(*bytes.Buffer)
	buf.Reset()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		release(buf)
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return buf, nil
}

// release gives a buffer back; huge ones are left to the garbage collector.
func release(buf *bytes.Buffer) {
	if buf.Cap() <= 1<<20 {
		buffers.Put(buf)
	}
}

// json answers with one value. It is encoded before the header is sent, so that a failure is still a 500.
func (w *response) json(status int, v any) error {
	buf, err := encode(v)
	if err != nil {
		return err
	}
	defer release(buf)
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(buf.Len())}
	w.WriteHeader(status)
	if _, err := w.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	return nil
}

// noContent answers 204, or passes the error on.
func (w *response) noContent(err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// line writes one value of a stream of JSON values and sends it at once.
func (w *response) line(v any) error {
	buf, err := encode(v)
	if err != nil {
		return err
	}
	defer release(buf)
	if _, err := w.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	w.Flush()
	return nil
}
