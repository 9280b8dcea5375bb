package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// badRun is a command line that cannot succeed; it must leave nothing.
type badRun struct {
	name string
	args []string
	code int
	text string // what the message must tell of
}

// badRuns are of docker run, after "run --rm". FILE, DIR, PROFILE and PORT stand for a file, its directory, a seccomp profile with an
// unknown action and a port that is taken.
var badRuns = []badRun{
	{"no such command", []string{"toolbox", "no-such-command"}, 127, `"no-such-command": executable file not found`},
	{"no such path", []string{"toolbox", "/no/such/path"}, 127, "/no/such/path"},
	{"not executable", []string{"toolbox", "/etc/passwd"}, 126, "/etc/passwd"},
	{"directory as a command", []string{"toolbox", "/etc"}, 126, "/etc"},
	{"below a file", []string{"toolbox", "/etc/passwd/x"}, 125, "/etc/passwd/x"},
	{"empty command", []string{"--entrypoint", "", "toolbox"}, 125, "no command specified"},
	{"NUL in the image", []string{"tool\nbox", "true"}, 125, "reference"},
	{"name of an image in capitals", []string{"UPPER", "true"}, 125, "lowercase"},
	{"unknown user", []string{"-u", "nosuch", "toolbox", "true"}, 125, "unable to find user nosuch"},
	{"unknown group", []string{"-u", "root:nosuch", "toolbox", "true"}, 125, "nosuch"},
	{"unknown additional group", []string{"--group-add", "nosuch", "toolbox", "true"}, 125, "nosuch"},
	{"user out of range", []string{"-u", "4294967296", "toolbox", "true"}, 125, "4294967296"},
	{"negative user", []string{"-u", "-1", "toolbox", "true"}, 125, "-1"},
	{"three parts of a user", []string{"-u", "0:0:0", "toolbox", "true"}, 125, "0:0"},
	{"mount source is missing", []string{"--mount", "type=bind,src=/no/such,dst=/x", "toolbox", "true"}, 125, "bind source path does not exist: /no/such"},
	{"relative mount source", []string{"--mount", "type=bind,src=../x,dst=/x", "toolbox", "true"}, 125, "x"},
	{"relative mount target", []string{"-v", "/tmp:x", "toolbox", "true"}, 125, "x"},
	{"mount on the root", []string{"-v", "/tmp:/", "toolbox", "true"}, 125, "/"},
	{"mount target by dots", []string{"-v", "/tmp:/x/..", "toolbox", "true"}, 125, "/"},
	{"name of a volume by dots", []string{"-v", "a/../../etc:/x", "toolbox", "true"}, 125, "etc"},
	{"unknown mount option", []string{"-v", "/tmp:/x:flying", "toolbox", "true"}, 125, "flying"},
	{"mount twice", []string{"-v", "/tmp:/x", "-v", "/var:/x", "toolbox", "true"}, 125, "/x"},
	{"source below a file", []string{"-v", "FILE/x:/x", "toolbox", "true"}, 125, "FILE"},
	{"file onto a directory", []string{"-v", "FILE:/tmp", "toolbox", "true"}, 125, "/tmp"},
	{"directory onto a file", []string{"-v", "DIR:/etc/passwd", "toolbox", "true"}, 125, "/etc/passwd"},
	{"unknown mount type", []string{"--mount", "type=floppy,dst=/x", "toolbox", "true"}, 125, "floppy"},
	{"propagation", []string{"--mount", "type=bind,src=/tmp,dst=/x,bind-propagation=up", "toolbox", "true"}, 125, "up"},
	{"tmpfs option", []string{"--tmpfs", "/x:lowerdir=/", "toolbox", "true"}, 125, "lowerdir"},
	{"tmpfs size", []string{"--tmpfs", "/x:size=huge", "toolbox", "true"}, 125, "/x"},
	{"volume driver", []string{"--mount", "type=volume,src=v,dst=/x,volume-driver=nfs", "toolbox", "true"}, 125, "nfs"},
	{"taken port", []string{"-p", "127.0.0.1:PORT:80", "toolbox", "true"}, 125, "PORT"},
	{"port out of range", []string{"-p", "99999:80", "toolbox", "true"}, 125, "99999"},
	{"port 0 of the container", []string{"-p", "80:0", "toolbox", "true"}, 125, "0"},
	{"unknown protocol", []string{"-p", "80/ipx", "toolbox", "true"}, 125, "ipx"},
	{"address that is not here", []string{"-p", "203.0.113.7:8080:80", "toolbox", "true"}, 125, "203.0.113.7"},
	{"taken name", []string{"--name", "holder", "toolbox", "true"}, 125, `"/holder" is already in use`},
	{"bad name", []string{"--name", "../x", "toolbox", "true"}, 125, "../x"},
	{"unknown network", []string{"--network", "nosuch", "toolbox", "true"}, 125, "network nosuch not found"},
	{"network of an unknown container", []string{"--network", "container:nosuch", "toolbox", "true"}, 125, "nosuch"},
	{"network of a stopped container", []string{"--network", "container:holder", "toolbox", "true"}, 125, "not running"},
	{"ports of another's network", []string{"--network", "container:holder", "-p", "80", "toolbox", "true"}, 125, "port publishing"},
	{"name of another's network", []string{"--network", "container:holder", "-h", "x", "toolbox", "true"}, 125, "hostname"},
	{"processes of an unknown container", []string{"--pid", "container:nosuch", "toolbox", "true"}, 125, "nosuch"},
	{"processes of a stopped container", []string{"--pid", "container:holder", "toolbox", "true"}, 125, "not running"},
	{"IPC of a container that does not share it", []string{"--ipc", "container:holder", "toolbox", "true"}, 125, "non-shareable IPC"},
	{"invalid PID mode", []string{"--pid", "mine", "toolbox", "true"}, 125, "mode"},
	{"invalid user namespace mode", []string{"--userns", "mine", "toolbox", "true"}, 125, "mode"},
	{"address outside of the subnet", []string{"--ip", "203.0.113.7", "toolbox", "true"}, 125, ""},
	{"address that is none", []string{"--ip", "1.2.3", "toolbox", "true"}, 125, "1.2.3"},
	{"alias on the bridge", []string{"--network-alias", "x", "toolbox", "true"}, 125, "alias"},
	{"DNS server that is none", []string{"--dns", "nosuch", "toolbox", "true"}, 125, "nosuch"},
	{"extra host without an address", []string{"--add-host", "x", "toolbox", "true"}, 125, "x"},
	{"MAC address", []string{"--mac-address", "xx", "toolbox", "true"}, 125, "xx"},
	{"memory", []string{"-m", "lots", "toolbox", "true"}, 125, "lots"},
	{"too little memory", []string{"-m", "1m", "toolbox", "true"}, 125, "6"},
	{"swap below memory", []string{"-m", "64m", "--memory-swap", "32m", "toolbox", "true"}, 125, "swap"},
	{"swap without memory", []string{"--memory-swap", "64m", "toolbox", "true"}, 125, "swap"},
	{"swappiness", []string{"--memory-swappiness", "101", "toolbox", "true"}, 125, "101"},
	{"too many processors", []string{"--cpus", "100000", "toolbox", "true"}, 125, "CPUs available"},
	{"too little of a processor", []string{"--cpus", "0.0001", "toolbox", "true"}, 125, "0.0"},
	{"both cpus and a quota", []string{"--cpus", "1", "--cpu-quota", "5000", "toolbox", "true"}, 125, "uota"},
	{"period", []string{"--cpu-period", "7", "toolbox", "true"}, 125, "period"},
	{"processor that is not here", []string{"--cpuset-cpus", "4000", "toolbox", "true"}, 125, "4000"},
	{"list of processors", []string{"--cpuset-cpus", "one", "toolbox", "true"}, 125, "one"},
	{"memory node that is not here", []string{"--cpuset-mems", "4000", "toolbox", "true"}, 125, "4000"},
	{"block device", []string{"--device-read-bps", "/dev/nosuch:1mb", "toolbox", "true"}, 125, "/dev/nosuch"},
	{"block weight", []string{"--blkio-weight", "5", "toolbox", "true"}, 125, "weight"},
	{"unknown ulimit", []string{"--ulimit", "wings=2", "toolbox", "true"}, 125, "wings"},
	{"soft above hard", []string{"--ulimit", "nofile=20:10", "toolbox", "true"}, 125, "soft"},
	{"OOM score", []string{"--oom-score-adj", "2000", "toolbox", "true"}, 125, "2000"},
	{"size of /dev/shm", []string{"--shm-size", "-1", "toolbox", "true"}, 125, "-1"},
	{"unknown sysctl", []string{"--sysctl", "net.no.such=1", "toolbox", "true"}, 125, "net.no.such"},
	{"sysctl of the host", []string{"--sysctl", "kernel.panic=1", "toolbox", "true"}, 125, "kernel.panic"},
	{"value of a sysctl", []string{"--sysctl", "net.ipv4.ip_forward=x", "toolbox", "true"}, 125, "ip_forward"},
	{"security option", []string{"--security-opt", "flying", "toolbox", "true"}, 125, "flying"},
	{"seccomp profile that is missing", []string{"--security-opt", "seccomp=/no/such.json", "toolbox", "true"}, 125, "/no/such.json"},
	{"seccomp profile that is none", []string{"--security-opt", "seccomp=FILE", "toolbox", "true"}, 125, "seccomp"},
	{"seccomp profile with an unknown action", []string{"--security-opt", "seccomp=PROFILE", "toolbox", "true"}, 125, "SCMP_ACT_FLY"},
	{"unknown capability", []string{"--cap-add", "FLY", "toolbox", "true"}, 125, "FLY"},
	{"unknown capability dropped", []string{"--cap-drop", "FLY", "toolbox", "true"}, 125, "FLY"},
	{"device rule", []string{"--device-cgroup-rule", "x 1:2 rwm", "toolbox", "true"}, 125, "x 1:2 rwm"},
	{"log driver", []string{"--log-driver", "pigeon", "toolbox", "true"}, 125, "pigeon"},
	{"log option", []string{"--log-opt", "wings=2", "toolbox", "true"}, 125, "wings"},
	{"log size", []string{"--log-opt", "max-size=x", "toolbox", "true"}, 125, "max-size"},
	{"log files", []string{"--log-opt", "max-file=2x", "--log-opt", "max-size=1m", "toolbox", "true"}, 125, "max-file"},
	{"restart policy and --rm", []string{"--restart", "always", "toolbox", "true"}, 125, "--rm"},
	{"stop signal", []string{"--stop-signal", "SIGFOO", "toolbox", "true"}, 125, "SIGFOO"},
	{"long host name", []string{"-h", strings.Repeat("h", 65), "toolbox", "true"}, 125, "64"},
	{"relative working directory", []string{"-w", "x", "toolbox", "true"}, 125, "absolute"},
	{"file as a working directory", []string{"-w", "/etc/passwd", "toolbox", "true"}, 125, "/etc/passwd"},
	{"unknown runtime", []string{"--runtime", "nosuch", "toolbox", "true"}, 125, "nosuch"},
	{"isolation", []string{"--isolation", "hyperv", "toolbox", "true"}, 125, "hyperv"},
	{"storage option", []string{"--storage-opt", "size=1G", "toolbox", "true"}, 125, "storage-opt"},
	{"link", []string{"--link", "holder:x", "toolbox", "true"}, 125, "link"},
	{"GPU", []string{"--gpus", "all", "toolbox", "true"}, 125, "gpu"},
	{"platform", []string{"--platform", "a/b/c/d", "toolbox", "true"}, 125, "a/b/c/d"},
	{"pull policy", []string{"--pull", "sometimes", "toolbox", "true"}, 125, "sometimes"},
	{"environment file", []string{"--env-file", "/no/such", "toolbox", "true"}, 125, "/no/such"},
	{"file of the id", []string{"--cidfile", "FILE", "toolbox", "true"}, 125, "FILE"},
	{"parent cgroup by dots", []string{"--cgroup-parent", "../../../x", "toolbox", "true"}, 125, ".."},
	{"flag", []string{"--no-such-flag", "toolbox"}, 125, "--no-such-flag"},
	{"no image", nil, 1, "requires at least 1 argument"},
}

// places makes what the words in badRuns stand for.
func places(t *testing.T) *strings.Replacer {
	dir := t.TempDir()
	file, profile := filepath.Join(dir, "file"), filepath.Join(dir, "seccomp.json")
	for path, text := range map[string]string{file: "text", profile: `{"defaultAction":"SCMP_ACT_FLY"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	return strings.NewReplacer("PORT", port, "PROFILE", profile, "FILE", file, "DIR", dir)
}

func TestBadRuns(t *testing.T) {
	alive(t, shared)
	must(t, command("gantry", shared, "create", "--name", "holder", "toolbox", "true"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-f", "holder")) })
	stand := places(t)
	for _, c := range badRuns {
		args := []string{"run", "--rm"}
		for _, a := range c.args {
			args = append(args, stand.Replace(a))
		}
		c.text = stand.Replace(c.text)
		t.Run(c.name, func(t *testing.T) {
			unchanged(t, shared)
			words := map[string]string{}
			both(t, func(t *testing.T, do func(args ...string) result) {
				r := do(args...)
				if r.code != c.code || r.out != "" {
					t.Errorf("exit %d, want %d: %s%s", r.code, c.code, r.out, r.err)
				}
				if !strings.Contains(strings.ToLower(r.err), strings.ToLower(c.text)) {
					t.Errorf("%q does not tell of %q", r.err, c.text)
				}
				words[clientName(t)] = r.err
			})
			// What the engine refuses is told in the same words; what a client refuses, each tells in its own.
			if g, d := same(words["gantry"]), same(words["docker"]); bothEngine(g, d) && g != d {
				t.Errorf("gantry says\n%s\nand docker\n%s", g, d)
			}
		})
	}
	alive(t, shared)
}

var invented = regexp.MustCompile(`[0-9a-f]{64}|container [a-z]+_[a-z]+`)

// same takes away what differs between two messages of the same failure.
func same(message string) string {
	return invented.ReplaceAllString(strings.ReplaceAll(message, "gantry", "docker"), "ID")
}

func bothEngine(a, b string) bool {
	const mark = "Error response from daemon"
	return strings.Contains(a, mark) && strings.Contains(b, mark)
}

// TestBadStart makes a container that cannot start without --rm: it stays, as docker's does, and nothing else.
func TestBadStart(t *testing.T) {
	alive(t, shared)
	both(t, func(t *testing.T, do func(args ...string) result) {
		unchanged(t, shared)
		if r := do("run", "--name", "stays", "-p", "80", "-v", "/data", "toolbox", "no-such-command"); r.code != 127 {
			t.Errorf("exit %d: %s", r.code, r.err)
		}
		if got := must(t, do("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}", "stays")); got != "created 127 0" {
			t.Errorf("it is %q", got)
		}
		if got := must(t, do("inspect", "-f", "{{.State.Error}}", "stays")); !strings.Contains(got, "executable file not found") {
			t.Errorf("its error is %q", got)
		}
		if r := do("start", "stays"); r.code != 1 || !strings.Contains(r.err, "executable file not found") {
			t.Errorf("start: exit %d: %s", r.code, r.err)
		}
		must(t, do("rm", "-v", "stays"))
	})
}

// badCommands are about the containers idle, which does not run, and busy, which does.
var badCommands = []badRun{
	{"", []string{"start", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"stop", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"rm", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"logs", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"attach", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"wait", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"top", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"port", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"update", "-m", "64m", "nosuch"}, 1, "No such container: nosuch"},
	{"", []string{"rename", "nosuch", "x"}, 1, "No such container: nosuch"},
	{"", []string{"exec", "nosuch", "true"}, 1, "No such container: nosuch"},
	{"", []string{"inspect", "nosuch"}, 1, "nosuch"},
	{"", []string{"rmi", "nosuch"}, 1, "No such image: nosuch"},
	{"", []string{"tag", "nosuch", "x"}, 1, "No such image: nosuch"},
	{"", []string{"history", "nosuch"}, 1, "No such image: nosuch"},
	{"", []string{"volume", "rm", "nosuch"}, 1, "nosuch"},
	{"", []string{"volume", "inspect", "nosuch"}, 1, "nosuch"},
	{"", []string{"volume", "create", "../x"}, 1, "../x"},
	{"", []string{"volume", "create", "-d", "nfs", "x"}, 1, "nfs"},
	{"", []string{"network", "inspect", "nosuch"}, 1, "nosuch"},
	{"", []string{"exec", "idle", "true"}, 1, "is not running"},
	{"", []string{"attach", "idle"}, 1, "stopped container"},
	{"", []string{"kill", "idle"}, 1, "is not running"},
	{"", []string{"pause", "idle"}, 1, "is not running"},
	{"", []string{"unpause", "busy"}, 1, "not paused"},
	{"", []string{"rm", "busy"}, 1, "running"},
	{"", []string{"rename", "busy", "idle"}, 1, "already in use"},
	{"", []string{"rename", "busy", "a/b"}, 1, "a/b"},
	{"", []string{"kill", "-s", "FOO", "busy"}, 1, "FOO"},
	{"", []string{"stop", "-s", "FOO", "busy"}, 1, "FOO"},
	{"", []string{"update", "-m", "1m", "busy"}, 1, "6"},
	{"", []string{"update", "--cpuset-cpus", "4000", "busy"}, 1, "4000"},
	{"", []string{"update", "--restart", "sometimes", "busy"}, 1, "sometimes"},
	{"", []string{"exec", "busy", "no-such-command"}, 127, "no-such-command"},
	{"", []string{"exec", "busy", "/etc/passwd"}, 126, "/etc/passwd"},
	{"", []string{"exec", "-u", "nosuch", "busy", "true"}, 126, "nosuch"},
	{"", []string{"exec", "-w", "/no/such", "busy", "true"}, 127, "/no/such"},
	{"", []string{"exec", "-w", "/etc/passwd", "busy", "true"}, 126, "/etc/passwd"},
	{"", []string{"load", "-i", "/etc/passwd"}, 1, "archive"},
	{"", []string{"load", "-i", "/no/such"}, 1, "/no/such"},
	{"", []string{"ps", "-f", "nosuch=x"}, 1, "nosuch"},
	{"", []string{"logs", "--since", "yesterdayish", "busy"}, 1, "yesterdayish"},
	{"", []string{"no-such-verb"}, 1, "no-such-verb"},
	{"", []string{"rm"}, 1, "requires at least 1 argument"},
}

// TestBadCommands are command lines about what is not there, or not in the state for them.
func TestBadCommands(t *testing.T) {
	must(t, command("gantry", shared, "create", "--name", "idle", "toolbox", "true"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-f", "idle")) })
	must(t, command("gantry", shared, "run", "-d", "--name", "busy", "toolbox", "sleep", "1000"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-f", "busy")) })
	for _, c := range badCommands {
		t.Run(fmt.Sprint(c.args), func(t *testing.T) {
			unchanged(t, shared)
			words := map[string]string{}
			both(t, func(t *testing.T, do func(args ...string) result) {
				r := do(c.args...)
				if r.code != c.code || !strings.Contains(r.err+r.out, c.text) {
					t.Errorf("exit %d, want %d and %q: %s%s", r.code, c.code, c.text, r.out, r.err)
				}
				words[clientName(t)] = r.err
			})
			if g, d := strings.ReplaceAll(same(words["gantry"]), "docker: ", ""), same(words["docker"]); bothEngine(g, d) && g != d {
				t.Errorf("gantry says\n%s\nand docker\n%s", g, d)
			}
		})
	}
	alive(t, shared)
}
