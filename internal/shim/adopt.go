package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/spool"
	"gantry/oci"
)

// adopt takes over the containers of a supervisor that died. Their output goes on through their FIFOs. What that
// supervisor had begun to create and not finished is deleted: nobody was told of it. adopt takes out of kept, by the ids of
// containers, what it uses.
func (s *Server) adopt(ctx context.Context, kept map[string]kept) {
	if err := s.runtime.RemoveLeftovers(); err != nil {
		warn("remove what is left of deleted containers", err)
	}
	files, err := filepath.Glob(s.path("*.json"))
	if err != nil {
		warn("look for containers to take over", err)
	}
	for _, file := range files {
		id := strings.TrimSuffix(filepath.Base(file), ".json")
		if err := s.adoptOne(ctx, id, file, kept); err != nil {
			warn("take over container "+id, err)
		}
	}
}

func (s *Server) adoptOne(ctx context.Context, id, file string, kept map[string]kept) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var a addresses
	made, err := s.runtime.Load(id)
	complete := err == nil && made.Complete()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !complete { // the file comes before everything else, and goes after it
		return errors.Join(s.runtime.Delete(ctx, id), s.removeFiles(id))
	}
	spec, err := made.Spec()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	state, err := made.State()
	if err != nil {
		return err
	}
	p := &process{terminal: a.Terminal, stdin: a.Stdin, stdout: a.Stdout, stderr: a.Stderr, exited: make(chan struct{})}
	p.started = state.Status != specs.StateCreated
	if p.streams, err = newStreams(a.Terminal, a.Stdin, a.Stdout, a.Stderr); err != nil {
		return err
	}
	p.streams.keep = s.keeping.of(id)
	k, isKept := kept[id]
	switch want := kindOf(a.Terminal); {
	case !isKept || k.kind != want:
		p.streams.setStdin(nil)
	case a.Terminal:
		delete(kept, id)
		if err := p.streams.setConsole(k.file); err != nil {
			return err
		}
	default:
		delete(kept, id)
		p.streams.setStdin(k.file)
	}
	c := &container{id: id, bundle: a.Bundle, server: s, oci: made, init: p, options: a.Options, killRest: !ownPIDs(spec), paused: state.Status == oci.StatePaused}
	if !a.Terminal {
		p.reopen(s.path(id))
	}
	s.settle(id, c)
	c.unwatch, c.watched = make(chan struct{}), make(chan struct{})
	go c.watchOOM()
	pid, pidfd, err := made.First()
	if errors.Is(err, oci.ErrNotRunning) { // others may have its number by now
		go c.ended(unknownStatus)
		return nil
	}
	if err == nil {
		err = p.watch(pid, pidfd, c.ended)
	}
	if err != nil {
		close(c.unwatch)
		return fmt.Errorf("watch the first process: %w", err)
	}
	return nil
}

// removeFiles removes what stands in the supervisor's directory of a container.
func (s *Server) removeFiles(id string) error {
	path := s.path(id)
	var errs []error
	for _, stream := range []logs.Stream{logs.Stdout, logs.Stderr} {
		errs = append(errs, removeFile(path+"."+stream.String()), removeFile(spoolPath(path, stream)))
	}
	return errors.Join(append(errs, removeFile(path+".json"))...)
}

// reopen logs what the dead supervisor had taken out of the FIFOs and not logged, and goes on reading them.
func (p *process) reopen(path string) {
	kept := p.recoverSpools(path)
	for _, stream := range []logs.Stream{logs.Stdout, logs.Stderr} {
		name := path + "." + stream.String()
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		p.fifos = append(p.fifos, name)
		if err == nil {
			err = p.streams.copy(stream, f, kept[stream])
		}
		if err != nil {
			warn("reopen an output", err)
		}
	}
}

// recoverSpools takes over the spools. How far the log is must be known for both outputs before anything is appended.
func (p *process) recoverSpools(path string) (kept [logs.Stderr + 1]*spool.Spool) {
	for _, o := range []struct {
		stream  logs.Stream
		address string
	}{{logs.Stdout, p.stdout}, {logs.Stderr, p.stderr}} {
		w := p.streams.log(o.stream)
		if w == nil {
			continue
		}
		options, err := logs.ParseURI(o.address)
		if err == nil {
			kept[o.stream], err = spool.Recover(spoolPath(path, o.stream), options.Path, warn)
		}
		if err != nil {
			warn("output is lost", err)
			kept[o.stream] = spool.New(spoolPath(path, o.stream), warn)
		}
		p.keep(o.stream, w, kept[o.stream])
	}
	for stream, s := range kept {
		if s == nil {
			continue
		}
		err := s.Replay(func(b []byte) error {
			return p.streams.log(logs.Stream(stream)).Write(logs.Stream(stream), b, time.Now())
		})
		if err != nil {
			warn("output is lost", err)
		}
	}
	return kept
}
