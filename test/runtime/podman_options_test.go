package runtime

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startPodmanBox returns a podman with the image "box".
func startPodmanBox(t *testing.T, runtime string) *peer {
	p := startPodman(t, runtime)
	p.want(0, "", "load", "-i", p.archive("localhost/box:latest"))
	return p
}

// modest are limits that this machine lets podman set.
var modest = []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}

// TestPodmanOptions: what podman run's options promise holds inside the container.
func TestPodmanOptions(t *testing.T) { beside(t, testPodmanOptions) }

func testPodmanOptions(t *testing.T, runtime string) {
	p := startPodmanBox(t, runtime)
	data, profile := filepath.Join(p.dir, "shared"), filepath.Join(p.dir, "seccomp.json")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	rules := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`
	if err := os.WriteFile(profile, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		options, script string
		want            []string
	}{
		{
			"--uidmap 0:300000:1000 --gidmap 0:400000:500 --gidmap 500:500000:500", "cat /proc/self/uid_map /proc/self/gid_map; id",
			[]string{"     300000       1000\n", "     400000        500\n", "     500000        500\n", "uid=0 gid=0"},
		},
		{"--init --init-path /usr/bin/docker-init", "cat /proc/1/cmdline", []string{"init"}},
		{"--privileged", "grep Seccomp: /proc/self/status; mount -t tmpfs none /tmp && echo mounted; ls /dev", []string{"Seccomp:\t0\nmounted\n", "kmsg"}},
		{
			"--cpus 0.5 --cpuset-cpus 0 --memory 64m --memory-reservation 32m --pids-limit 77 --oom-score-adj 300 --shm-size 2m --ulimit stack=1048576:2097152",
			strings.Join([]string{
				limit("cpu/cpu.cfs_quota_us", "cpu.max"), limit("memory/memory.soft_limit_in_bytes", "memory.low"), limit("pids/pids.max", "pids.max"),
				"grep Cpus_allowed_list /proc/self/status", "cat /proc/self/oom_score_adj", "grep /dev/shm /proc/self/mounts", "grep stack /proc/self/limits",
			}, "; "),
			[]string{"50000", "33554432", "77\n", "Cpus_allowed_list:\t0\n", "300\n", "size=2048k", "1048576              2097152"},
		},
		{
			"--sysctl net.ipv4.ip_forward=0 --sysctl kernel.msgmax=4242 --hostname there -w /tmp -e A=b --umask 0027",
			"cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; hostname; pwd; echo $A; umask",
			[]string{"0\n4242\nthere\n/tmp\nb\n", "027"},
		},
		{
			"--tmpfs /t:size=1m,noexec -v " + data + ":/ro:ro --mount type=bind,src=" + data + ",dst=/slave,bind-propagation=rslave --mount type=tmpfs,dst=/m",
			"cat /proc/self/mountinfo; (echo x >/ro/x); echo own >/m/x && cat /m/x",
			[]string{" /t rw,nosuid,nodev,noexec", "size=1024k", "read-only file system", "own\n"},
		},
		{"--cgroup-parent /parent-" + p.id + " --cgroupns host", "cat /proc/self/cgroup", []string{":/parent-" + p.id + "/libpod-"}},
		{"--cgroupns private", "cat /proc/self/cgroup", []string{":/\n"}},
		{"--device /dev/null:/dev/own", "echo x >/dev/own && stat -c %F /dev/own", []string{"character special file"}},
		{
			"--security-opt seccomp=" + profile + " --security-opt no-new-privileges", "chmod 700 /tmp; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status",
			[]string{"no space left", "NoNewPrivs:\t1\nSeccomp:\t2"},
		},
		{"--security-opt unmask=ALL", "grep -c ' /proc/' /proc/self/mountinfo", []string{"0\n"}},
		{"--user 5:6 --group-add 7 --cap-drop ALL", "id; grep -E 'CapEff|CapBnd' /proc/self/status", []string{"groups=6,7\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000"}},
		{"--cap-drop ALL --cap-add SYS_TIME --read-only", "grep CapEff /proc/self/status; (echo x >/x)", []string{"CapEff:\t0000000002000000\n", "read-only file system"}},
		{"--ipc host --uts host --pid host", "readlink /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/pid", []string{ownNamespace(t, "ipc") + "\n" + ownNamespace(t, "uts") + "\n" + ownNamespace(t, "pid")}},
		{"--network bridge", "ip address show eth0", []string{"10.88."}},
	} {
		args := append(append([]string{"run", "--rm"}, modest...), strings.Fields(test.options)...)
		if !strings.Contains(test.options, "--network") {
			args = append(args, "--network", "none")
		}
		code, out := p.do(append(args, "box", "sh", "-c", test.script)...)
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("podman run %s: %s: exit code %d, %q, want %q", test.options, test.script, code, out, want)
			}
		}
	}
}

// TestPodmanLife: what happens to a container, and to a pod, over time.
func TestPodmanLife(t *testing.T) { beside(t, testPodmanLife) }

func testPodmanLife(t *testing.T, runtime string) {
	p := startPodmanBox(t, runtime)
	create := func(name string, args ...string) {
		t.Helper()
		p.want(0, "", append(append(append([]string{"create", "--name", name}, modest...), "--network", "none"), args...)...)
	}
	create("c", "--health-cmd", "true", "--health-interval", "disable", "--memory", "64m", "box", "sleep", "1000")
	p.want(0, "", "init", "c")
	p.want(0, "initialized", "inspect", "-f", "{{.State.Status}}", "c")
	p.want(0, "", "start", "c")
	p.want(0, "", "healthcheck", "run", "c")
	p.want(0, "healthy", "inspect", "-f", "{{.State.Health.Status}}", "c")
	p.want(0, "", "update", "--cpus", "0.7", "c")
	p.want(0, "70000", "exec", "c", "sh", "-c", limit("cpu/cpu.cfs_quota_us", "cpu.max"))
	p.want(0, "67108864", "exec", "c", "sh", "-c", limit("memory/memory.limit_in_bytes", "memory.max"))
	p.want(127, "not found", "exec", "c", "no-such-program")
	p.want(126, "denied", "exec", "c", "/etc")
	p.want(0, "uid=5 gid=6", "exec", "--user", "5:6", "c", "id")
	p.want(0, "CapEff:\t0", "exec", "--privileged", "c", "grep", "CapEff", "/proc/self/status")
	p.want(0, "", "exec", "-d", "c", "sh", "-c", "echo done >/tmp/detached; sleep 1000")
	p.eventually("done", "exec", "c", "cat", "/tmp/detached")
	p.want(0, "sleep 1000", "top", "c", "args")
	p.want(0, "c", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "c")
	p.want(0, "", "commit", "-q", "c", "copy")
	p.want(0, "done", append(append([]string{"run", "--rm", "--network", "none"}, modest...), "copy", "cat", "/tmp/detached")...)
	p.want(0, "", "pause", "c")
	p.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "c")
	p.want(0, "", "unpause", "c")
	p.want(0, "", "restart", "-t", "0", "c")
	p.want(0, "done", "exec", "c", "cat", "/tmp/detached")
	p.want(0, "", "rm", "-f", "-t", "0", "c")

	create("term", "--stop-signal", "USR1", "box", "sh", "-c", "trap 'echo bye; exit 4' USR1; while true; do sleep 0.1; done")
	p.want(0, "", "start", "term")
	p.want(0, "", "exec", "term", "true")
	p.want(0, "", "stop", "-t", "10", "term")
	p.want(0, "4", "wait", "term")
	p.want(0, "bye", "logs", "term")
	create("hungry", "--memory", "16m", "--memory-swap", "16m", "box", "hog", "memory", "100M")
	p.want(137, "", "start", "-a", "hungry")
	p.want(0, "", append(append([]string{"run", "-d", "--restart", "on-failure:2", "--name", "again", "--network", "none"}, modest...), "box", "sh", "-c", "exit 3")...)
	p.eventually("exited 3 2", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "again")

	p.want(0, "", "pod", "create", "--name", "pod1", "--infra-image", "box", "--infra-command", "sleep 1000", "--network", "none", "--share", "net,ipc,uts,pid", "--hostname", "podded")
	inPod := func(name string, args ...string) []string {
		return append(append([]string{"run", "--pod", "pod1", "--name", name}, modest...), args...)
	}
	p.want(0, "", inPod("one", "-d", "box", "sleep", "2000")...)
	p.want(0, "sleep 2000", inPod("two", "--rm", "box", "ps")...)
	p.want(0, "podded", inPod("three", "--rm", "box", "hostname")...)
	p.want(0, "", "pod", "pause", "pod1")
	p.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "one")
	p.want(0, "", "pod", "unpause", "pod1")
	p.want(0, "one", "pod", "stats", "--no-stream", "pod1")
	p.want(0, "", "pod", "stop", "-t", "0", "pod1")
	p.eventually("exited", "inspect", "-f", "{{.State.Status}}", "one")
	p.want(0, "", "pod", "start", "pod1")
	p.want(0, "podded", "exec", "one", "hostname")
	p.want(0, "", "pod", "rm", "-f", "-t", "0", "pod1")
	p.called("create", "start", "exec", "update", "pause", "resume", "kill", "delete")
}

// TestPodmanTerminal: conmon gets the terminal over the console socket, also for exec; further descriptors are handed on.
func TestPodmanTerminal(t *testing.T) { beside(t, testPodmanTerminal) }

func testPodmanTerminal(t *testing.T, runtime string) {
	p := startPodmanBox(t, runtime)
	script := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command("script", "-qec", strings.Join(append(p.command, args...), " "), "/dev/null").CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	run := append([]string{"run", "--network", "none"}, modest...)
	script("a terminal", append(run, "--rm", "-it", "box", "sh", "-c", "'test -t 0 && echo a terminal'")...)
	p.want(0, "", append(run, "-d", "--name", "c", "box", "sleep", "1000")...)
	script("another", "exec", "-it", "c", "sh", "-c", "'test -t 1 && echo another'")
	file := filepath.Join(p.dir, "handed")
	shell := strings.Join(p.command, " ")
	for _, call := range []string{strings.Join(run, " ") + " --rm --preserve-fds 1 box", "exec --preserve-fds 1 c"} {
		out, err := exec.Command("sh", "-c", shell+" "+call+" sh -c 'echo through >/proc/self/fd/3' 3>"+file).CombinedOutput()
		if text, readErr := os.ReadFile(file); err != nil || readErr != nil || string(text) != "through\n" {
			t.Errorf("%s: %v: %s: %v, %q", call, err, out, readErr, text)
		}
	}
	p.want(0, "", "rm", "-f", "-t", "0", "c")
	p.called("--console-socket", "--preserve-fds")
}
