package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bin has a link for each applet, as the image has.
var bin string

func TestMain(m *testing.M) {
	code, err := withPrograms(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withPrograms(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "toolbox-test-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin = filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return 1, err
	}
	for _, p := range [][]string{
		{"toolbox"},
		{"toolbox-core", "-tags", "toolbox_core"},
		{"toolbox-bare", "-ldflags", "-E main.entry", "gantry/cmd/gantry-init"},
	} {
		path := filepath.Join(bin, p[0])
		build := exec.Command("go", append([]string{"build", "-o", path}, p[1:]...)...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("%s: %w: %s", build, err, out)
		}
		list := []byte("true false sleep")
		if p[0] != "toolbox-bare" {
			if list, err = exec.Command(path, "--list").Output(); err != nil {
				return 1, err
			}
		}
		for _, name := range strings.Fields(string(list)) {
			link := filepath.Join(bin, name)
			_ = os.Remove(link) // the smaller program takes over
			if err := os.Symlink(p[0], link); err != nil {
				return 1, err
			}
		}
	}
	if err := os.Setenv("PATH", bin); err != nil {
		return 1, err
	}
	return run(), nil
}

type outcome struct {
	stdout, stderr string
	code           int
}

// shell runs a script in a fresh directory with nothing but the applets in PATH.
func inShell(t *testing.T, script, stdin string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "sh"), append([]string{"-c", script, "sh"}, args...)...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = t.TempDir(), strings.NewReader(stdin), &out, &errs
	cmd.Env = []string{"PATH=" + bin, "HOME=/root", "TZ=UTC"}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func TestApplets(t *testing.T) {
	for _, c := range []struct {
		script, stdin, want string
		code                int
	}{
		{"env true; echo $?; env false; echo $?", "", "0\n1\n", 0},
		{"env echo -n a b", "", "a b", 0},
		{"env printf '%s-%03d\\n' x 5", "", "x-005\n", 0},
		{"env [ a = b ] || env test 3 -lt 5 && echo yes", "", "yes\n", 0},
		{"cat - f 2>/dev/null; echo $?", "in\n", "in\n1\n", 0},
		{"seq 3 | head -n 2; seq 5 | tail -2; seq 5 | tail -n +4", "", "1\n2\n4\n5\n4\n5\n", 0},
		{"head -c 3; seq 9 | head -1", "abcdef", "abc1\n", 0},
		{"wc; printf 'a b\\nc\\n' | wc -l", "one two\nthree\n", "2 3 14\n2\n", 0},
		{"grep -n b", "abc\nxyz\nb\n", "1:abc\n3:b\n", 0},
		{"grep -vc b; grep -q zz; echo $?", "abc\nxyz\n", "1\n1\n", 0},
		{"grep -iE '^(a|x)' | grep -o '[a-z]*$'; grep '[' /dev/null; echo $?", "Abc\nq\nXyz\n", "bc\nyz\n2\n", 0},
		{"grep 'a+\\|q\\?z' ", "a+\nqz\naa\nz\n", "a+\nqz\nz\n", 0},
		{"sort -n; printf 'b 2\\na 3\\n' | sort -k 2 -r", "10\n9\n1\n", "1\n9\n10\na 3\nb 2\n", 0},
		{"sort -ru", "a\nb\na\n", "b\na\n", 0},
		{"seq 10 -4 1", "", "10\n6\n2\n", 0},
		{"echo x | tee a b; cat a b; echo y | tee -a a >/dev/null; cat a", "", "x\nx\nx\nx\ny\n", 0},
		{"yes no | head -2", "", "no\nno\n", 0},
		{"mkdir -p a/b; touch a/b/c; find a; find a -type f -name '?'; rmdir a 2>/dev/null; echo $?", "", "a\na/b\na/b/c\na/b/c\n1\n", 0},
		{"mkdir no/a b; echo $?; mkdir b; echo $?; mkdir -p b/c b; echo $?; ls; mkdir -m 9 x; echo $?", "", "1\n1\n0\nb\n1\n", 0},
		{"rm no; echo $?; rm -f no; echo $?; touch no/a; echo $?; cp no a; echo $?; mv no a; echo $?; rmdir no; echo $?; chmod 600 no; echo $?; ls no; echo $?; cat no; echo $?", "", "1\n0\n1\n1\n1\n1\n1\n1\n1\n", 0},
		{"mkdir d; echo 1 >d/f; ln -s f d/l; cp -a d e; readlink e/l; cat e/l; mv e g; ls g; rm -rf d g; ls", "", "f\n1\nf\nl\n", 0},
		{"echo x >a; ln a b; stat -c '%h %s %F' b; chmod 640 a; stat -c '%a %A' b", "", "2 2 regular file\n640 -rw-r-----\n", 0},
		{"touch f; for m in 600 u+x,g=r o+w,a-r u=rwxs,+t; do chmod $m f; stat -c %a f; done; chmod u+q f; echo $?", "", "600\n740\n302\n5702\n1\n", 0},
		{"chown 12:34 . && stat -c '%u:%g' .; chown nosuch . 2>/dev/null; echo $?", "", "12:34\n1\n", 0},
		{"mkdir d; chmod 1777 d; ls -ld d | head -c 10; echo; touch d/x d/.h; ls d; ls -A d; ls -1a d", "", "drwxrwxrwt\nx\n.h\nx\n.\n..\n.h\nx\n", 0},
		{"ls -l nosuch; echo $?", "", "1\n", 0},
		{"readlink -f /proc/../tmp; dirname /a/b/c x; basename /a/b.txt .txt", "", "/tmp\n/a/b\n.\nb\n", 0},
		{"date -u -d @86400 '+%Y-%m-%dT%H:%M:%S %j'", "", "1970-01-02T00:00:00 002\n", 0},
		{"dd if=/dev/zero of=f bs=1k count=3 2>/dev/null; stat -c %s f; du -b f; dd if=f bs=512 skip=5 2>&1 >/dev/null | tail -1", "", "3072\n3072\tf\n512 bytes copied\n", 0},
		{"env -i A=1 env; A=2 env | grep ^A; env nosuchprogram 2>/dev/null; echo $?; env / 2>/dev/null; echo $?", "", "A=1\nA=2\n127\n126\n", 0},
		{"id -u; id -un; whoami", "", "0\nroot\nroot\n", 0},
		{"uname; [ $(uname -n) = $(hostname) ] && echo same; [ $(nproc) -ge 1 ] && echo some", "", "Linux\nsame\nsome\n", 0},
		{"md5sum; printf abc | sha256sum", "abc", "900150983cd24fb0d6963f7d28e17f72  -\nba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n", 0},
		{"xargs -n 2 echo", "a b c", "a b\nc\n", 0},
		{"which cat nosuch; echo $?", "", bin + "/cat\n1\n", 0},
		{"sleep 0.01; sleep x 2>/dev/null; echo $?", "", "1\n", 0},
		{"mkdir d; echo 1 >d/f; tar -czf a.tgz d; rm -r d; tar tf a.tgz; tar -xf a.tgz; cat d/f", "", "d/\nd/f\n1\n", 0},
		{"gzip -c | gunzip", "squeeze", "squeeze", 0},
		{"f=$(mktemp); [ -f $f ] && rm $f && echo made", "", "made\n", 0},
		{"uniq -c; printf 'a\\na\\nb\\n' | uniq -d; printf 'a\\na\\nb\\n' | uniq -u", "x\nx\ny\n", "      2 x\n      1 y\na\nb\n", 0},
		{"cut -d: -f1,3-; echo abcdef | cut -c 2-3,5; echo none | cut -d: -f2 -s; cut -f 0 2>/dev/null; echo $?", "a:b:c:d\n", "a:c:d\nbce\n1\n", 0},
		{"tr a-z A-Z; echo a1b22 | tr -d '[:digit:]'; echo aabbc | tr -s ab; echo 'x y' | tr -c 'a-z\\n' _; echo a:b | tr : '\\n'", "hello", "HELLOab\nabc\nx_y\na\nb\n", 0},
		{"tty; echo $?; stty size 2>/dev/null; echo $?; clear | wc -c", "", "not a tty\n1\n1\n11\n", 0},
		{"hog memory 4m 1; hog fork 2 1; hog disk 64k f; stat -c %s f", "", "holding 4194304 bytes\nstarted 2 of 2 processes\nwrote 65536 bytes\n65536\n", 0},
		{"ps -o pid,comm | grep -c ' sh$' >/dev/null && echo found", "", "found\n", 0},
		{"toolbox echo via; toolbox nosuch 2>/dev/null; echo $?", "", "via\n127\n", 0},
		{"mount | grep -c ' on /proc type proc' >/dev/null && df / >/dev/null && free >/dev/null && echo ok", "", "ok\n", 0},
		{"ip link show lo | grep -o LOOPBACK; ip -4 addr show dev lo | grep -o 127.0.0.1/8", "", "LOOPBACK\n127.0.0.1/8\n", 0},
		{"env time true 2>&1 | wc -l; env time false 2>/dev/null; echo $?", "", "3\n1\n", 0},
	} {
		got := inShell(t, c.script, c.stdin)
		if got.stdout != c.want || got.code != c.code {
			t.Errorf("%s\ngives %q, status %d, errors %q\n want %q, status %d", c.script, got.stdout, got.code, got.stderr, c.want, c.code)
		}
	}
}

func TestShell(t *testing.T) {
	for _, c := range []struct {
		script, want string
		code         int
	}{
		{"exit 7", "", 7},
		{"echo $0 $1 $#", "sh one 2\n", 0},
		{"nosuch", "", 127},
		{"/", "", 126},
		{"/etc/passwd", "", 126},
		{"set -e; false; echo not reached", "", 1},
		{"if then", "", 2},
		{"sh -c 'kill -9 $$'; echo $?", "137\n", 0},
		{"kill -KILL $$", "", -1},
		{"for i in 1 2; do echo $i & wait; done", "1\n2\n", 0},
		{"x=$(echo a | cat); echo \"${x}b\" >f; cat <f", "ab\n", 0},
		{"trap 'echo bye' EXIT; echo hi", "hi\nbye\n", 0},
		{"trap 'echo got' USR1; kill -USR1 $$; sleep 0.05; echo end", "got\nend\n", 0},
		{"trap 'exit 9' TERM; kill -TERM $$; sleep 0.05; echo not reached", "", 9},
		{"trap 'exit 8' TERM; (sleep 0.1; kill $$) & wait; echo not reached", "", 8},
		{"trap 'exit 8' TERM; (sleep 0.1; kill $$; sleep 0.1; sleep 5) & wait; echo not reached", "", 8},
		{"trap 'exit 8' TERM; { sleep 0.2; sleep 5; } & (sleep 0.5; kill $$) & wait; echo not reached", "", 8},
		{"exec cat f", "", 1},
		{"echo $$; exec sh -c 'echo $$'", "same", 0},
		{"exec >f; echo hidden; exec cat f >&2", "", 0},
		{"(exec echo sub); echo after", "sub\nafter\n", 0},
		{"umask 027; umask; touch f; stat -c %a f", "0027\n640\n", 0},
		{"echo 'echo script $1' >s; chmod 755 s; ./s x; sh s y", "script x\nscript y\n", 0},
		{"f() { echo in $1; return 3; }; f a; echo $?", "in a\n3\n", 0},
		{"cd /; pwd; env pwd", "/\n/\n", 0},
		{"PATH=; cat </dev/null && echo applets are found without links", "applets are found without links\n", 0},
	} {
		got := inShell(t, c.script, "", "one", "two")
		if c.want == "same" {
			if ids := strings.Fields(got.stdout); len(ids) != 2 || ids[0] != ids[1] {
				t.Errorf("%s: %q, errors %q", c.script, got.stdout, got.stderr)
			}
			continue
		}
		if got.stdout != c.want || got.code != c.code {
			t.Errorf("%s\ngives %q, status %d, errors %q\n want %q, status %d", c.script, got.stdout, got.code, got.stderr, c.want, c.code)
		}
	}
}

func TestShellLeavesInputToCommands(t *testing.T) {
	cmd := exec.Command(filepath.Join(bin, "sh"))
	cmd.Stdin = strings.NewReader("read x\nvalue\necho got $x\ncat\nrest\n")
	out, err := cmd.Output()
	if err != nil || string(out) != "got value\nrest\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestProcessOne runs shells as process 1 of a pid namespace: signals without a handler are ignored there.
func TestProcessOne(t *testing.T) {
	for _, c := range []struct {
		script string
		signal syscall.Signal
		want   int
	}{
		{"echo ready; sleep 0.3; exit 5", syscall.SIGTERM, 5},
		{"trap 'exit 6' TERM; echo ready; while :; do sleep 0.02; done", syscall.SIGTERM, 6},
		{"echo ready; sleep 100", syscall.SIGKILL, -1},
	} {
		cmd := exec.Command(filepath.Join(bin, "sh"), "-c", c.script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.want {
			t.Errorf("%s: %v after %v; want status %d", c.script, cmd.ProcessState, c.signal, c.want)
		}
	}
}

// freePort is one that nothing listened on a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// background starts a server, which is killed in the end.
func background(t *testing.T, stdin string, args ...string) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, args[0]), args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &out
}

// eventually repeats a script until it succeeds, for as long as a server may need to start.
func eventually(t *testing.T, script string) outcome {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		got := inShell(t, script, "")
		if got.code == 0 || time.Now().After(deadline) {
			return got
		}
	}
}

func TestHTTP(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	for name, text := range map[string]string{"a.txt": "content\n", "sub/index.html": "<p>index"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	background(t, "", "httpd", "-p", "127.0.0.1:"+port, dir)
	base := "http://127.0.0.1:" + port
	if got := eventually(t, "wget -q -O - "+base+"/a.txt"); got.stdout != "content\n" {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct {
		script, want string
		code         int
	}{
		{"wget -qO- " + base + "/sub", "<p>index", 0},
		{"wget -q " + base + "/a.txt && cat a.txt", "content\n", 0},
		{"wget -qO- " + base + "/ | grep -c href", "3\n", 0},
		{"wget -qO- " + base + "/missing", "", 1},
		{"wget -qO- " + base + "/out", "", 1},
		{"wget -qO- " + base + "/../../etc/passwd", "", 1},
		{"wget -qO- https://127.0.0.1/", "", 1},
		{"nc -z 127.0.0.1 " + port, "", 0},
	} {
		if got := inShell(t, c.script, ""); got.stdout != c.want || got.code != c.code {
			t.Errorf("%s: %+v; want %q, status %d", c.script, got, c.want, c.code)
		}
	}
}

func TestNetcat(t *testing.T) {
	port := freePort(t)
	background(t, "from the server\n", "nc", "-l", "-p", port)
	if got := eventually(t, "echo from the client | nc 127.0.0.1 "+port); got.stdout != "from the server\n" {
		t.Errorf("tcp: %+v", got)
	}
	background(t, "datagram\n", "nc", "-l", "-u", "-p", port)
	if got := eventually(t, "echo hello | nc -u -w 1 127.0.0.1 "+port); got.stdout != "datagram\n" {
		t.Errorf("udp: %+v", got)
	}
}

func TestTailFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("1\n2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "tail"), "-n", "1", "-f", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewReader(out)
	if first, err := lines.ReadString('\n'); err != nil || first != "2\n" {
		t.Fatalf("%q, %v", first, err)
	}
	inShell(t, `echo 3 >>"$1"`, "", path)
	if next, err := lines.ReadString('\n'); err != nil || next != "3\n" {
		t.Errorf("%q, %v", next, err)
	}
}

func TestTarStaysInside(t *testing.T) {
	got := inShell(t, `mkdir d x; ln -s /tmp d/l; tar -cf a.tar d; tar -xf a.tar -C x; rm d/l; mkdir d/l; touch d/l/escaped
tar -cf b.tar d/l/escaped; tar -xf b.tar -C x; ls -d /tmp/escaped`, "")
	if got.code == 0 || !strings.Contains(got.stderr, "escapes") {
		t.Errorf("%+v", got)
	}
}

func TestAppletsAreSortedAndOnce(t *testing.T) {
	var names []string
	for _, a := range applets() {
		names = append(names, a.name)
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("applets %v", names)
	}
}
