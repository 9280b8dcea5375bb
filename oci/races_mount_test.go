package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// swapper exchanges two entries of a directory, again and again, until it is told to stop.
func swapper(t *testing.T, dir, a, b string) (stop func()) {
	t.Helper()
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, a), unix.AT_FDCWD, filepath.Join(dir, b), unix.RENAME_EXCHANGE)
				time.Sleep(20 * time.Microsecond)
			}
		}
	}()
	return func() { close(end); <-done }
}

// TestMountTargetsAreSwapped lets somebody exchange the mount points of many mounts for links to the host while the
// container is being made: everything stays inside, and nothing is made outside (CVE-2021-30465, CVE-2024-45310).
func TestMountTargetsAreSwapped(t *testing.T) {
	outside, source := t.TempDir(), t.TempDir()
	writeTree(t, source, map[string]string{"file": "bound"})
	made, refused := 0, 0
	for round, mounts := range []int{1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 50, 50, 200} {
		b := newBundle(t, "cat", "/proc/self/mountinfo")
		shared := t.TempDir() // a volume that another container has, too
		writeTree(t, shared, map[string]string{"real/": "", "link": "->/proc/self/fd/7" + outside})
		if round%2 == 1 {
			writeTree(t, shared, map[string]string{"link": "->../../../../../.." + outside})
		}
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: shared, Options: []string{"rbind"}})
		for n := range mounts {
			m := specs.Mount{Destination: fmt.Sprintf("/volume/real/%d", n), Type: "tmpfs", Source: "tmpfs"}
			if n%2 == 1 {
				m = specs.Mount{Destination: m.Destination, Type: "bind", Source: source, Options: []string{"bind"}}
			}
			b.spec.Mounts = append(b.spec.Mounts, m)
		}
		before := mountTable()
		stop := swapper(t, shared, "real", "link")
		c, p, err := b.lib.Create(t.Context(), "swapped", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
		stop()
		if err == nil {
			made++
			for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/mountinfo", p.Pid))) {
				if fields := strings.Fields(line); !strings.HasPrefix(fields[4], "/") || strings.HasPrefix(fields[4], "//deleted") {
					t.Errorf("a mount elsewhere: %s", line)
				}
			}
			b.end(t, c, p)
		} else {
			refused++
		}
		if after := mountTable(); after != before {
			t.Fatalf("mounts of the host have changed:\n%s", after)
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Fatalf("made outside: %v (%v)", entries, err)
		}
	}
	t.Logf("%d made, %d refused", made, refused)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMaskIsSwapped lets somebody exchange /dev/null for a link to a file of the kernel while paths are masked: the mask
// is the null device whatever stands there (CVE-2025-31133).
func TestMaskIsSwapped(t *testing.T) {
	for range 5 {
		b := newBundle(t, "cat", "/secret")
		dev := t.TempDir()
		writeTree(t, dev, map[string]string{"null": "PATTERN", "link": "->/proc/sys/kernel/core_pattern"})
		writeTree(t, b.dir+"/rootfs", map[string]string{"secret": "SECRET"})
		b.spec.Mounts = append([]specs.Mount{b.spec.Mounts[0]}, specs.Mount{Destination: "/dev", Type: "bind", Source: dev, Options: []string{"rbind"}})
		b.spec.Linux.ReadonlyPaths, b.spec.Linux.MaskedPaths = nil, nil
		for range 50 {
			b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret")
		}
		stop := swapper(t, dev, "null", "link")
		text, _ := b.output(t)
		stop()
		if text != "" {
			t.Fatalf("the mask shows %q", text)
		}
	}
}

// TestConsoleOfTheImage: a link in the place of the console, or of the terminals, leads nowhere outside (CVE-2025-52565,
// CVE-2026-88264).
func TestConsoleOfTheImage(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"console is a link":             {"dev/console": "->%s/console"},
		"console is a link to a file":   {"dev/console": "->/proc/sys/kernel/core_pattern"},
		"console is a link to a task":   {"dev/console": "->/proc/self/fd/5"},
		"pts is a link":                 {"dev/pts": "->%s"},
		"dev is a link":                 {"dev": "->%s"},
		"ptmx and console lead nowhere": {"dev/ptmx": "->%s/ptmx", "dev/console": "->/no/such/dir"},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			b := newBundle(t, "stat", "/dev/console")
			b.spec.Process.Terminal = true
			b.spec.Mounts = []specs.Mount{b.spec.Mounts[0], b.spec.Mounts[2]} // /dev is the image's
			b.spec.Linux.ReadonlyPaths, b.spec.Linux.MaskedPaths = nil, nil
			if err := os.Remove(b.dir + "/rootfs/dev"); err != nil {
				t.Fatal(err)
			}
			resolved := map[string]string{outside[1:] + "/": ""}
			for path, text := range files {
				resolved[path] = strings.ReplaceAll(text, "%s", outside)
			}
			writeTree(t, b.dir+"/rootfs", resolved)
			pattern := readFile(t, "/proc/sys/kernel/core_pattern")
			var master *os.File
			console := func(f *os.File) error { master = f; return nil }
			before := mountTable()
			c, p, err := b.lib.Create(t.Context(), "console", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay(), Stdio: Stdio{Console: console}})
			if err == nil {
				b.end(t, c, p)
			}
			if master != nil {
				master.Close()
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
				t.Errorf("made outside: %v (%v)", entries, err)
			}
			if after := mountTable(); after != before || readFile(t, "/proc/sys/kernel/core_pattern") != pattern {
				t.Errorf("the host has changed:\n%s", after)
			}
		})
	}
}
