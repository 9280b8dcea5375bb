package differential

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gantry/test/isolate"
)

// built is the directory of the whole suite: the binaries, and the directories of both engines.
var built string

// both are the engines that all scenarios share: the reference, and ours.
var both [2]*engine

// TestMain runs the tests in namespaces, where whatever the engines leave ends with them.
func TestMain(m *testing.M) {
	isolate.Init()
	run := build
	if !isolate.Inside() {
		run = func(*testing.M) (int, error) { return isolate.Run(os.Args, true) }
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(1, code)
	}
	os.Exit(code)
}

// build builds the programs, then runs the tests.
func build(m *testing.M) (code int, err error) {
	if built, err = os.MkdirTemp("", "gd-"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(built)) }()
	for _, args := range [][]string{
		{"run", "-C", "../..", "./internal/image/toolbox/mkimage", "-arch", goruntime.GOARCH, "-o", "internal/image/toolbox/embed/toolbox.tar"},
		{"build", "-C", "../..", "-trimpath", "-o", built, "./cmd/gantryd", "./cmd/containerd-shim-gantry-v1", "./cmd/toolbox"},
		{"build", "-C", "../..", "-trimpath", "-ldflags", "-s -w -E main.entry", "-o", built, "./cmd/gantry-init"},
	} {
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return withEngines(m.Run)
}

// engine is one of the two: a daemon with directories and a network namespace of its own.
type engine struct {
	name   string // "docker" or "gantry"
	dir    string
	client *http.Client
	log    string
	images map[string]string // id → name
	cmd    *exec.Cmd
	ended  chan struct{}

	mu     sync.Mutex // guards events and changed
	events []json.RawMessage
	// changed is closed, and replaced, when an event has been added.
	changed chan struct{}
}

func (e *engine) socket() string { return filepath.Join(e.dir, "api.sock") }

// withEngines starts both engines, runs the tests, and ends the engines.
func withEngines(run func() int) (code int, err error) {
	// Nothing of the engines must reach a disk: they wait for it at every step otherwise.
	dir := "/run/engines"
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return 1, err
	}
	archive, err := images()
	if err != nil {
		return 1, err
	}
	for i, name := range []string{"docker", "gantry"} {
		both[i] = &engine{name: name, dir: filepath.Join(dir, name), changed: make(chan struct{}), ended: make(chan struct{})}
	}
	var group sync.WaitGroup
	var failed [2]error
	for i, e := range both {
		group.Go(func() { failed[i] = e.start(archive) })
	}
	group.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		return 1, err
	}
	code = run()
	for _, e := range both {
		e.end()
	}
	if code != 0 && testing.Verbose() {
		for _, e := range both {
			text, _ := os.ReadFile(e.log)
			fmt.Fprintf(os.Stderr, "%s said:\n%s\n", e.name, text[max(0, len(text)-8000):])
		}
	}
	return code, nil
}

// start starts the engine, loads the images into it, and records its events from then on.
func (e *engine) start(archive []byte) error {
	if err := os.MkdirAll(e.dir, 0o711); err != nil {
		return err
	}
	address, data, state := "unix://"+e.socket(), filepath.Join(e.dir, "data"), filepath.Join(e.dir, "run")
	program := []string{"dockerd", "--data-root", data, "--exec-root", state, "--pidfile", filepath.Join(e.dir, "pid"), "-H", address}
	if e.name == "gantry" {
		program = []string{filepath.Join(built, "gantryd"), "--root", data, "--run", state, "--host", address}
	}
	e.log = filepath.Join(e.dir, "log")
	log, err := os.Create(e.log)
	if err != nil {
		return err
	}
	defer log.Close()
	e.cmd = exec.Command("unshare", append([]string{"--net", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}, program...)...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", e.name, err)
	}
	go func() {
		_ = e.cmd.Wait() // it is told to end, or found out below
		close(e.ended)
	}()
	e.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket())
	}}}
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if answer, err := e.client.Get("http://engine/_ping"); err == nil {
			_ = answer.Body.Close()
			break
		} else if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w", e.name, err)
		}
		select {
		case <-e.ended:
			text, _ := os.ReadFile(e.log)
			return fmt.Errorf("%s ended at once:\n%s", e.name, text)
		default:
		}
	}
	answer, err := e.client.Post("http://engine/v1.41/images/load?quiet=1", "application/x-tar", bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("load images into %s: %w", e.name, err)
	}
	text, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || answer.StatusCode != 200 || bytes.Contains(text, []byte("errorDetail")) {
		return fmt.Errorf("load images into %s: %s %s %w", e.name, answer.Status, text, err)
	}
	if err := e.learnImages(); err != nil {
		return err
	}
	stream, err := e.client.Get("http://engine/v1.41/events")
	if err != nil {
		return fmt.Errorf("read events of %s: %w", e.name, err)
	}
	go e.record(stream.Body)
	return nil
}

// learnImages asks for the ids of the images.
func (e *engine) learnImages() error {
	answer, err := e.client.Get("http://engine/v1.41/images/json")
	if err != nil {
		return fmt.Errorf("list images of %s: %w", e.name, err)
	}
	defer answer.Body.Close()
	var list []struct {
		Id       string //nolint:staticcheck // the API's name
		RepoTags []string
	}
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		return fmt.Errorf("list images of %s: %w", e.name, err)
	}
	e.images = map[string]string{}
	for _, image := range list {
		for _, tag := range image.RepoTags {
			e.images[image.Id], _, _ = strings.Cut(tag, ":")
		}
	}
	return nil
}

func (e *engine) end() {
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-e.ended:
	case <-time.After(patience):
		_ = e.cmd.Process.Kill()
		<-e.ended
	}
}

// record keeps every event, until the engine ends.
func (e *engine) record(stream io.ReadCloser) {
	defer stream.Close()
	for decode := json.NewDecoder(stream); ; {
		var event json.RawMessage
		if err := decode.Decode(&event); err != nil {
			return
		}
		e.mu.Lock()
		e.events = append(e.events, event)
		close(e.changed)
		e.changed = make(chan struct{})
		e.mu.Unlock()
	}
}

// eventsUntil waits until an event contains a text, and returns all before it, from the first that contains another.
func (e *engine) eventsUntil(ctx context.Context, last string) ([]json.RawMessage, error) {
	for seen := 0; ; {
		e.mu.Lock()
		events, changed := e.events, e.changed
		e.mu.Unlock()
		for ; seen < len(events); seen++ {
			if bytes.Contains(events[seen], []byte(last)) {
				return events[:seen], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("the event of %s never came", last)
		}
	}
}

// awaitEvent waits until an event after the first ones fulfils a condition.
func (e *engine) awaitEvent(ctx context.Context, first int, holds func(string) bool) error {
	for {
		e.mu.Lock()
		events, changed := e.events[first:], e.changed
		e.mu.Unlock()
		for _, event := range events {
			if holds(string(event)) {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.New("its event never came")
		}
	}
}

// images packs the images that scenarios use as "docker save" does: all share the one layer, with a shell and a few programs.
//
//	box    nothing set but PATH and a command
//	full   every setting that an image can have
//	nocmd  no command
func images() ([]byte, error) {
	root := filepath.Join(built, "rootfs")
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "etc", "run", "data", "work"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	program, err := os.ReadFile(filepath.Join(built, "toolbox"))
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"bin/sh": string(program), "data/seed": "seed\n",
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/work:/bin/sh\n",
		"etc/group":  "root:x:0:\nweb:x:102:\nextra:x:103:web\n",
	}
	for name, text := range files {
		mode := os.FileMode(0o644)
		if name == "bin/sh" {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), mode); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{
		"cat", "chmod", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mount", "ps", "pwd",
		"readlink", "rm", "seq", "sleep", "stat", "touch", "true", "tty", "wc",
	} {
		if err := os.Symlink("sh", filepath.Join(root, "bin", name)); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	layer, err := exec.Command("tar", "--owner=0", "--group=0", "--mtime=@1700000000", "--sort=name", "-C", root, "-c", ".").Output()
	if err != nil {
		return nil, fmt.Errorf("pack the root directory: %w", err)
	}
	type object = map[string]any
	type file struct {
		name string
		text []byte
	}
	all := []file{{"layer.tar", layer}}
	var manifest []object
	for _, image := range []struct {
		name   string
		config object
	}{
		{"box", object{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sleep", "1000"}}},
		{"nocmd", object{"Env": []string{"PATH=/bin"}}},
		{"full", object{
			"Env": []string{"PATH=/bin", "COLOR=blue", "SIZE=1"}, "Entrypoint": []string{"sh", "-c"}, "Cmd": []string{"sleep 1000"},
			"User": "web", "WorkingDir": "/work", "Labels": object{"maker": "us", "shape": "round"}, "StopSignal": "SIGINT",
			"ExposedPorts": object{"80/tcp": object{}, "53/udp": object{}}, "Volumes": object{"/data": object{}},
			"Healthcheck": object{"Test": []string{"CMD", "true"}, "Interval": 3600 * time.Second, "Retries": 3},
		}},
	} {
		config, err := json.Marshal(object{
			"architecture": goruntime.GOARCH, "os": "linux", "config": image.config, "created": "2024-01-02T03:04:05Z",
			"history": []object{{"created": "2024-01-02T03:04:05Z", "created_by": "the tests"}},
			"rootfs":  object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
		})
		if err != nil {
			return nil, err
		}
		all = append(all, file{image.name + ".json", config})
		manifest = append(manifest, object{"Config": image.name + ".json", "RepoTags": []string{image.name + ":latest"}, "Layers": []string{"layer.tar"}})
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range append(all, file{"manifest.json", text}) {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}
