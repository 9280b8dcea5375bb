package docker

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	images "gantry/internal/image"
)

func TestPull(t *testing.T) {
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"u","password":"p"}`))
	some := []images.Progress{{ID: "l1", Status: "Downloading", Current: 1, Total: 2}, {ID: "l1", Status: "Downloading", Current: 1, Total: 2}, {ID: "l1", Status: "Pull complete"}}
	f := &fake{progress: some}
	r, err := mobyClient(t, f, "").ImagePull(within(t), "host:5000/a/b:1", client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for m, err := range r.JSONMessages(within(t)) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, m.ID+"|"+m.Status)
	}
	want := []string{"1|Pulling from a/b", "l1|Downloading", "l1|Pull complete", "|Digest: " + pulled.String(), "|Status: Downloaded newer image for host:5000/a/b:1"}
	if fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
	if got := f.took(); got != "image host:5000/a/b:1 ; pull host:5000/a/b:1  u:p" {
		t.Errorf("backend got %q", got)
	}
}

func TestPullForms(t *testing.T) {
	f := &fake{imageID: pulled, progress: []images.Progress{{ID: "l1", Status: "Downloading", Current: 1, Total: 2}}}
	w := do(f, "POST", "/v1.41/images/create?fromImage=debian&tag=12&platform=linux/arm64", "")
	if got := f.took(); got != "image docker.io/library/debian:12 arm64; pull docker.io/library/debian:12 arm64 " {
		t.Errorf("backend got %q", got)
	}
	if body := w.Body.String(); !strings.Contains(body, `"progress":"[=========================>                        ]       1B/2B"`) ||
		!strings.HasSuffix(body, `{"status":"Status: Image is up to date for debian:12"}`+"\n") {
		t.Errorf("body %s", body)
	}
	f = &fake{pullErr: errors.New("registry hung up"), progress: f.progress}
	w = do(f, "POST", "/images/create?fromImage=debian&tag="+pulled.String(), "")
	if body := w.Body.String(); w.Code != 200 || !strings.HasSuffix(body, `{"errorDetail":{"message":"registry hung up"},"error":"registry hung up"}`+"\n") {
		t.Errorf("an error after the first line: %d %s", w.Code, body)
	}
	if got := f.took(); !strings.Contains(got, "pull docker.io/library/debian@"+pulled.String()) {
		t.Errorf("by digest: backend got %q", got)
	}
	f.progress = nil
	if w := do(f, "POST", "/images/create?fromImage=debian&tag=12", ""); w.Code != 500 || messageOf(w) != "registry hung up" {
		t.Errorf("an error before the first line: %d %s", w.Code, w.Body)
	}
}

func TestLoad(t *testing.T) {
	f := &fake{}
	big := strings.Repeat("tar", 1<<20) // more than the server would swallow after it has begun to answer
	r, err := mobyClient(t, f, "").ImageLoad(within(t), strings.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	body, err := io.ReadAll(r)
	if err != nil || len(f.loaded) != len(big) {
		t.Fatalf("%d of %d bytes, %v", len(f.loaded), len(big), err)
	}
	if !strings.Contains(string(body), `{"stream":"Loaded image: a:1\n"}`) || !strings.Contains(string(body), `{"stream":"Loaded image ID: `+pulled.String()) {
		t.Errorf("body %s", body)
	}
}

// TestProgressOfASuspendedClient: a client that reads nothing does not hold up the transfer.
func TestProgressOfASuspendedClient(t *testing.T) {
	reads := make(chan struct{})
	out := &blockedWriter{ResponseRecorder: httptest.NewRecorder(), reads: reads}
	p := newProgressStream(&response{ResponseWriter: out, version: maxVersion})
	for i := range 1000 {
		p.report(images.Progress{ID: fmt.Sprint("l", i%10), Status: "Downloading", Current: int64(i), Total: 1000})
		for id := range p.last {
			p.last[id] = reported{} // as if time had passed
		}
	}
	p.report(images.Progress{ID: "l1", Status: "Pull complete"})
	close(reads)
	if err := p.finish(errors.New("broken")); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.Body.String()), "\n")
	// One number of each layer is being written, and one is pending.
	if n := len(lines); n > 10+10+2 || !strings.Contains(lines[n-2], "Pull complete") || !strings.Contains(lines[n-1], "broken") {
		t.Errorf("%d lines: %q", n, lines)
	}
	if !strings.Contains(out.Body.String(), `"current":999`) {
		t.Errorf("the newest numbers are missing: %q", lines)
	}
}

// blockedWriter is the response to a client that does not read until a channel is closed.
type blockedWriter struct {
	*httptest.ResponseRecorder
	reads <-chan struct{}
}

func (w *blockedWriter) Write(p []byte) (int, error) {
	<-w.reads
	return w.ResponseRecorder.Write(p)
}
