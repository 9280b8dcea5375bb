package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A field of criu's options as it is on the wire: see rpc.proto of criu.
func number(field int, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(field)<<3), value)
}

func text(field int, value string) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(field)<<3|2), uint64(len(value))), value...)
}

// TestCheckpointFlags: every flag reaches criu as the option that runc makes of it, and is not there otherwise.
func TestCheckpointFlags(t *testing.T) {
	c := interrupted(t, nil)
	c.want(0, "run", "--detach", "-b", c.dir, c.id)
	asked := filepath.Join(t.TempDir(), "asked")
	criu := c.criu("dd bs=65536 count=1 <&3 >" + asked + " 2>/dev/null; exit 1")
	ask := func(flags ...string) []byte {
		t.Helper()
		c.want(1, append(append([]string{"--criu", criu, "checkpoint", "--image-path", c.image("image")}, flags...), c.id)...)
		request, err := os.ReadFile(asked)
		if err != nil || len(request) == 0 {
			t.Fatalf("%v: criu was not asked: %v", flags, err)
		}
		return request
	}
	if err := os.MkdirAll(c.image("parent"), 0o700); err != nil {
		t.Fatal(err)
	}
	plain := ask()
	for flags, want := range map[string][]byte{
		"--leave-running": number(3, 1), "--ext-unix-sk": number(4, 1), "--tcp-established": number(5, 1), "--shell-job": number(7, 1),
		"--file-locks": number(8, 1), "--auto-dedup": number(16, 1), "--link-remap": number(18, 1), "--tcp-skip-in-flight": number(46, 1),
		"--parent-path ../parent": text(14, "../parent"), "--page-server 10.0.0.1:27": text(11, string(append(text(1, "10.0.0.1"), number(2, 27)...))),
		"--page-server [::1]:27":       text(11, string(append(text(1, "::1"), number(2, 27)...))),
		"--manage-cgroups-mode ignore": number(34, 0), "--manage-cgroups-mode soft": number(34, 3),
		"--manage-cgroups-mode full": number(34, 4), "--manage-cgroups-mode strict": number(34, 5),
	} {
		if bytes.Contains(plain, want) {
			t.Errorf("%s: the option is there without the flag: %q", flags, plain)
		}
		if got := ask(strings.Fields(flags)...); !bytes.Contains(got, want) {
			t.Errorf("%s: %q does not have %q", flags, got, want)
		}
	}
	for what, want := range map[string][]byte{
		"criu's default for cgroups": number(34, 6), "an empty network": number(38, unix.CLONE_NEWNET), "terminals": number(50, 1),
		"the file of the configuration": text(51, "/etc/criu/runc.conf"),
	} {
		if !bytes.Contains(plain, want) {
			t.Errorf("%s: %q does not have %q", what, plain, want)
		}
	}
}

// TestCheckpointFlagsRefused: what cannot be is refused with the name of the flag, before anything happens.
func TestCheckpointFlagsRefused(t *testing.T) {
	c := interrupted(t, nil)
	c.want(0, "run", "--detach", "-b", c.dir, c.id)
	criu := c.criu("echo criu was called >&2; exit 1")
	for flags, want := range map[string]string{
		"--parent-path /absolute":                  "--parent-path must be relative",
		"--parent-path ../nowhere":                 "--parent-path",
		"--page-server nowhere":                    "--page-server",
		"--page-server :1":                         "--page-server",
		"--page-server ::1:27":                     "--page-server",
		"--page-server [::1:27":                    "--page-server",
		"--page-server a:70000":                    "--page-server",
		"--manage-cgroups-mode lenient":            "manage-cgroups-mode",
		"--empty-ns pid":                           "empty-ns",
		"--lazy-pages --status-fd 77":              "--status-fd",
		"--no-such-flag":                           "no-such-flag",
		"--tcp-close":                              "tcp-close",
		"--leave-running=perhaps":                  "leave-running",
		"--pre-dump --manage-cgroups-mode lenient": "manage-cgroups-mode",
	} {
		code, _, errs := c.do(append(append([]string{"--criu", criu, "checkpoint", "--image-path", c.image("image")}, strings.Fields(flags)...), c.id)...)
		if code == 0 || !strings.Contains(errs, want) || strings.Contains(errs, "criu was called") {
			t.Errorf("%s: exit code %d: %s, want %q", flags, code, errs, want)
		}
	}
	if _, err := os.Stat(c.image("image")); err == nil {
		t.Error("the directory of the images was made")
	}
	c.want(0, "exec", c.id, "/bin/true")
}

// TestRestoreWithLabels: a criu that would pass over the labels of a security module is not asked to restore with them.
func TestRestoreWithLabels(t *testing.T) {
	version := func(minor byte) string { // an answer of criu's: 3.minor
		answer := append(number(1, 10), number(2, 1)...)
		answer = append(answer, text(10, string(append(number(1, 3), number(2, uint64(minor))...)))...)
		var octal strings.Builder
		for _, b := range answer {
			octal.WriteString("\\0" + string([]byte{'0' + b>>6, '0' + b>>3&7, '0' + b&7}))
		}
		return octal.String()
	}
	for _, flag := range []string{"--lsm-profile=apparmor:other", "--lsm-mount-context=other"} {
		for minor, want := range map[byte]string{15: "criu 3.16", 16: "no more"} {
			c, _ := restorable(t)
			script := "[ -e " + c.image("asked") + " ] && { echo no more >&2; exit 1; }\n: >" + c.image("asked") +
				"\ndd bs=65536 count=1 <&3 >/dev/null 2>&1; /usr/bin/printf '%b' '" + version(minor) + "' >&3"
			_, errs := c.want(1, "--criu", c.criu(script), "restore", "-d", "-b", c.dir, "--image-path", c.image("image"), flag, c.id)
			if !strings.Contains(errs, want) {
				t.Errorf("%s with criu 3.%d: %s, want %q", flag, minor, errs, want)
			}
			c.nothingLeft(c.id)
		}
	}
}
