package shim_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
)

// killCount is how often a test kills the supervisor. GANTRY_KILLS and GANTRY_SEED choose others.
func killCount(t *testing.T, count int) (kills int, seed uint64) {
	kills, seed = count, rand.Uint64()
	for name, set := range map[string]func(uint64){
		"GANTRY_KILLS": func(n uint64) { kills = int(n) },
		"GANTRY_SEED":  func(n uint64) { seed = n },
	} {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			set(n)
		}
	}
	return kills, seed
}

// size is the size of the files of a container's log.
func (h *host) size(id string) (sum int64) {
	files, _ := filepath.Glob(h.log(id).Path + "*")
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// numbers checks that a stream of a log is 0, 1, 2 and so on, one number per line, and returns how many.
func (h *host) numbers(id string, stream logs.Stream) (next int) {
	h.t.Helper()
	wrong := 0
	err := logs.Read(context.Background(), h.log(id).Path, logs.Query{Tail: -1}, func(e logs.Entry) error {
		if e.Stream != stream {
			return nil
		}
		got, err := strconv.Atoi(string(bytes.TrimRight(e.Line, ".\n")))
		if err != nil || got != next {
			if wrong++; wrong <= 5 {
				h.t.Errorf("container %s, %s: line %q follows line %d", id, stream, e.Line[:min(len(e.Line), 50)], next-1)
			}
		}
		if err == nil {
			next = got + 1
		} else {
			next++
		}
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	return next
}

// Supervisors are killed again and again while containers print numbered lines. Each line is in the log once, in order:
// whatever a supervisor had taken out of a FIFO, held back as the beginning of a line, or written in part.
func TestKilledWhileLogging(t *testing.T) {
	h := newHost(t)
	stop := filepath.Join(h.dir, "stop")
	scripts := map[string]string{
		"small":   `i=0; while [ ! -e STOP ]; do echo $i; echo $i >&2; i=$((i+1)); done`,
		"big":     `i=0; while [ ! -e STOP ]; do seq $i $((i+1999)); i=$((i+2000)); done`,
		"long":    `i=0; dots=$(printf %9000s | tr " " .); while [ ! -e STOP ]; do echo $i$dots; i=$((i+1)); done`,
		"rotated": `i=0; while [ ! -e STOP ]; do seq $i $((i+1999)); i=$((i+2000)); done`,
	}
	for id, script := range scripts {
		options := h.log(id)
		if id == "rotated" {
			options.MaxSize, options.MaxFiles = 2<<20, 10_000
		}
		h.run(id, string(bytes.ReplaceAll([]byte(script), []byte("STOP"), []byte(stop))), func(r *task.CreateTaskRequest, _ *specs.Spec) {
			r.Stdout, r.Stderr = options.URI(), options.URI()
		})
	}
	kills, seed := killCount(t, 15)
	t.Logf("GANTRY_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		for id := range scripts {
			more := h.size(id) + 1 + random.Int64N(20_000)
			eventually(t, "container "+id+" is logged", func() bool { return h.size(id) >= more })
		}
		time.Sleep(time.Duration(random.IntN(3_000)) * time.Microsecond) // not all moments are those after an append
		if err := unix.Kill(h.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-h.Closed()
		h.connect(true)
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for id := range scripts {
		h.wait(id, "")
		h.delete(id, "")
		for stream, least := range map[logs.Stream]int{logs.Stdout: 100, logs.Stderr: map[string]int{"small": 100}[id]} {
			if n := h.numbers(id, stream); n < least || id != "small" && id != "long" && n%2000 != 0 {
				t.Errorf("container %s: %d lines of %s are logged", id, n, stream)
			} else if n > 0 {
				t.Logf("container %s: %d lines of %s", id, n, stream)
			}
		}
	}
}
