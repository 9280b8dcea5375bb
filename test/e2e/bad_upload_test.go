package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadUploads sends the archives of TestBadLayers into containers, one that runs and one that does not, and asks for what lies
// outside. It may be refused or stay inside; the host stays as it is, and the engine does its work.
func TestBadUploads(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "kept"), []byte("kept\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	before := hostState(t, host)
	for what, layers := range evilLayers(t, host) {
		must(t, command("gantry", shared, "run", "-d", "--name", "running", "toolbox", "sleep", "1000"))
		must(t, command("gantry", shared, "create", "--name", "created", "toolbox", "true"))
		for _, name := range []string{"running", "created"} {
			for _, into := range []string{"/", "/tmp/../.."} {
				for _, layer := range layers {
					a, err := shared.send("PUT", "/containers/"+name+"/archive?path="+into, "application/x-tar", layer)
					refusal(t, fmt.Sprintf("%s into %s of the %s one", what, into, name), a, err, 200, 400, 403, 404)
				}
			}
			a, err := shared.send("GET", "/containers/"+name+"/archive?path=/a/kept", "", nil) // through the links that came
			refusal(t, what+": a path that leads out", a, err, 400, 404)
		}
		if after := hostState(t, host); after != before {
			t.Errorf("%s: the host's directory was %q and is %q", what, before, after)
		}
		must(t, command("gantry", shared, "rm", "-f", "running", "created"))
	}
	alive(t, shared)
}

// TestBadArchives are requests for copies that cannot be.
func TestBadArchives(t *testing.T) {
	must(t, command("gantry", shared, "run", "-d", "--name", "copied", "--read-only", "-v", "/data", "toolbox", "sleep", "1000"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-fv", "copied")) })
	unchanged(t, shared)
	archive := archive(t, file("x"))
	for _, c := range []struct {
		request string
		body    []byte
		status  []int
		message string
	}{
		{"GET /containers/copied/archive", nil, []int{400}, "path"},
		{"GET /containers/copied/archive?path=", nil, []int{400}, "path"},
		{"GET /containers/copied/archive?path=/no/such", nil, []int{404}, "/no/such"},
		{"GET /containers/copied/archive?path=/etc/passwd/x", nil, []int{400, 404}, "/etc/passwd/x"},
		{"GET /containers/copied/archive?path=/x%00y", nil, []int{400, 404}, ""},
		{"GET /containers/copied/archive?path=/" + strings.Repeat("n", 300), nil, []int{400, 404}, ""},
		{"GET /containers/copied/archive?path=" + strings.Repeat("/d", 3000), nil, []int{400, 404}, ""},
		{"PUT /containers/copied/archive", archive, []int{400}, "path"},
		{"PUT /containers/copied/archive?path=/no/such", archive, []int{404}, "/no/such"},
		{"PUT /containers/copied/archive?path=/etc/passwd", archive, []int{400}, "/etc/passwd"},
		{"PUT /containers/copied/archive?path=/etc", archive, []int{403}, "read-only"},
		{"PUT /containers/copied/archive?path=/data", []byte("no archive"), []int{400}, ""},
		{"PUT /containers/copied/archive?path=/data", archive[:514], []int{400}, ""},
		{"PUT /containers/copied/archive?path=/data", []byte{0x1f, 0x8b, 8, 0}, []int{400}, ""},
		{"PUT /containers/nosuch/archive?path=/data", archive, []int{404}, "nosuch"},
		{"GET /containers/nosuch/export", nil, []int{404}, "nosuch"},
		{"GET /containers/nosuch/changes", nil, []int{404}, "nosuch"},
	} {
		method, target, _ := strings.Cut(c.request, " ")
		a, err := shared.send(method, target, "application/x-tar", c.body)
		refusal(t, c.request, a, err, c.status...)
		if !strings.Contains(a.message, c.message) {
			t.Errorf("%s: %q does not tell of %q", short(c.request), a.message, c.message)
		}
	}
	must(t, command("gantry", shared, "exec", "copied", "sh", "-c", "rm -f /data/*"))
	alive(t, shared)
}
