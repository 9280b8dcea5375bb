package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDockerOptions: what docker run's options promise holds inside the container.
func TestDockerOptions(t *testing.T) { beside(t, testDockerOptions) }

func testDockerOptions(t *testing.T, runtime string) {
	p := startDocker(t, runtime, "--iptables=true")
	data, profile := filepath.Join(p.dir, "shared"), filepath.Join(p.dir, "seccomp.json")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", data, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", data, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	rules := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`
	if err := os.WriteFile(profile, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	p.want(0, "", "run", "-d", "--name", "first", "--ipc", "shareable", "box", "sleep", "1000")
	for _, test := range []struct {
		options, script string
		want            []string
	}{
		{"--network bridge --init", "ip address show eth0; cat /proc/1/cmdline", []string{"172.17.", "docker-init"}},
		{
			"--cpus 0.5 --cpuset-cpus 0 --memory 64m --memory-reservation 32m --pids-limit 77 --oom-score-adj 300 --shm-size 2m --ulimit stack=1048576:2097152",
			strings.Join([]string{
				limit("cpu/cpu.cfs_quota_us", "cpu.max"), limit("memory/memory.soft_limit_in_bytes", "memory.low"), limit("pids/pids.max", "pids.max"),
				"grep Cpus_allowed_list /proc/self/status", "cat /proc/self/oom_score_adj", "grep /dev/shm /proc/self/mounts", "grep stack /proc/self/limits",
			}, "; "),
			[]string{"50000", "33554432", "77\n", "Cpus_allowed_list:\t0\n", "300\n", "size=2048k", "1048576              2097152"},
		},
		{
			"--sysctl net.ipv4.ip_forward=0 --sysctl kernel.msgmax=4242 --hostname there --domainname example.test --add-host a:10.1.2.3 -w /made/here -e A=b",
			"cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; hostname; cat /proc/sys/kernel/domainname; pwd; echo $A",
			[]string{"0\n4242\nthere\nexample.test\n/made/here\nb\n"},
		},
		{
			"--tmpfs /t:size=1m,noexec,mode=1700 -v " + data + ":/ro:ro -v " + data + ":/slave:rslave --mount type=bind,src=" + data + ",dst=/shared,bind-propagation=rshared " +
				"--mount type=bind,src=" + data + ",dst=/private,readonly,bind-propagation=rprivate --mount type=volume,dst=/volume",
			"cat /proc/self/mountinfo; stat -c %a /t; echo x >/ro/x || echo refused; echo own >/volume/x && cat /volume/x",
			[]string{" /t rw,nosuid,nodev,noexec", "size=1024k", "1700\n", "read-only file system", "own\n", " / /slave rw", "master:", " / /shared rw", "shared:", " / /private ro"},
		},
		{"--cgroup-parent /parent-" + p.id + " --cgroupns host", "cat /proc/self/cgroup", []string{":/parent-" + p.id + "/"}},
		{"--cgroupns private", "cat /proc/self/cgroup", []string{":/\n"}},
		{
			"--device /dev/null:/dev/own", "echo x >/dev/own && stat -c %F /dev/own",
			[]string{"character special file"},
		},
		{
			"--security-opt seccomp=" + profile + " --security-opt no-new-privileges", "chmod 700 /tmp; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status",
			[]string{"no space left", "NoNewPrivs:\t1\nSeccomp:\t2"},
		},
		{"--security-opt seccomp=unconfined --security-opt systempaths=unconfined", "grep Seccomp: /proc/self/status; grep -c ' /proc/' /proc/self/mountinfo", []string{"Seccomp:\t0\n0\n"}},
		{
			"", "cat /proc/keys; (echo x >/proc/sys/kernel/domainname); grep -E 'Seccomp:|NoNewPrivs' /proc/self/status",
			[]string{"read-only file system", "NoNewPrivs:\t0\nSeccomp:\t2"},
		},
		{"--user 5:6 --group-add 7", "id; grep CapEff /proc/self/status", []string{"groups=6,7\nCapEff:\t0000000000000000"}},
		{
			"--cap-drop ALL --cap-add SYS_TIME --read-only --tmpfs /tmp", "grep -E 'CapEff|CapBnd' /proc/self/status; echo x >/tmp/x && cat /tmp/x; (echo x >/x)",
			[]string{"0000000002000000\nCapBnd:\t0000000002000000", "x\n", "read-only file system"},
		},
		{"--ipc host --uts host --pid host", "readlink /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/pid", []string{ownNamespace(t, "ipc") + "\n" + ownNamespace(t, "uts") + "\n" + ownNamespace(t, "pid")}},
		{"--network container:first --ipc container:first --pid container:first", "ps", []string{"sleep 1000"}},
	} {
		args := append([]string{"run", "--rm"}, strings.Fields(test.options)...)
		if !strings.Contains(test.options, "--network") {
			args = append(args, "--network", "none") // quicker
		}
		_, out := p.do(append(args, "box", "sh", "-c", test.script)...)
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("docker run %s: %s: %q, want %q", test.options, test.script, out, want)
			}
		}
	}
	if script := "grep -E 'CapEff|Seccomp:' /proc/self/status; mount -t tmpfs none /tmp && echo mounted"; hasAllCapabilities(t) {
		p.want(0, "Seccomp:\t0\nmounted", "run", "--rm", "--privileged", "box", "sh", "-c", script)
	} else { // as runc: no less than was asked for
		p.want(125, "operation not permitted", "run", "--rm", "--privileged", "box", "sh", "-c", script)
	}
	p.want(0, "", "rm", "-f", "first")
}

// hasAllCapabilities reports whether privileged containers can be had here.
func hasAllCapabilities(t *testing.T) bool {
	t.Helper()
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(status), fmt.Sprintf("CapBnd:\t%016x\n", uint64(1)<<(number+1)-1))
}

// TestDockerLife: what happens to a container over time.
func TestDockerLife(t *testing.T) { beside(t, testDockerLife) }

func testDockerLife(t *testing.T, runtime string) {
	p := startDocker(t, runtime)
	p.want(0, "", "run", "-d", "--name", "healthy", "--health-cmd", "true", "--health-interval", "500ms", "box", "sleep", "1000")
	p.want(0, "", "run", "-d", "--name", "ill", "--health-cmd", "echo a reason; exit 1", "--health-interval", "500ms", "--health-retries", "1", "box", "sleep", "1000")
	p.want(0, "", "run", "-d", "--name", "again", "--restart", "on-failure:2", "box", "sh", "-c", "echo run; exit 3")
	p.want(0, "", "run", "-d", "--name", "term", "--stop-signal", "USR1", "box", "sh", "-c", "trap 'echo bye; exit 4' USR1; while true; do sleep 0.1; done")
	p.want(0, "", "run", "-d", "--name", "limits", "--memory", "64m", "--cpus", "0.5", "box", "sleep", "1000")

	p.want(0, "", "update", "--cpus", "0.7", "--cpu-shares", "300", "--cpuset-cpus", "0", "--pids-limit", "55", "limits")
	p.want(0, "70000", "exec", "limits", "sh", "-c", limit("cpu/cpu.cfs_quota_us", "cpu.max"))
	p.want(0, "55", "exec", "limits", "sh", "-c", limit("pids/pids.max", "pids.max"))
	p.want(0, "Cpus_allowed_list:\t0\n", "exec", "limits", "grep", "Cpus_allowed_list", "/proc/self/status")
	if hasAllCapabilities(t) {
		p.want(0, "CapEff:\t000001ffffffffff", "exec", "--privileged", "limits", "grep", "CapEff", "/proc/self/status")
	} else {
		p.want(126, "operation not permitted", "exec", "--privileged", "limits", "true")
	}
	p.want(126, "not found", "exec", "limits", "no-such-program") // 127 with later dockers
	p.want(126, "denied", "exec", "limits", "/etc")
	p.want(0, "", "exec", "-d", "limits", "sh", "-c", "echo done >/tmp/detached; sleep 1000")
	p.eventually("done", "exec", "limits", "cat", "/tmp/detached")
	p.want(0, "sleep 1000", "top", "limits", "-o", "pid,args")
	p.want(0, "sha256:", "commit", "limits", "copy") // paused meanwhile
	p.want(0, "done", "run", "--rm", "copy", "cat", "/tmp/detached")
	p.want(0, "", "pause", "limits")
	p.want(0, "", "stop", "-t", "1", "limits") // a paused one
	p.eventually("exited 137", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "limits")
	p.want(0, "", "start", "limits")
	p.want(0, "done", "exec", "limits", "cat", "/tmp/detached")

	p.want(0, "", "stop", "-t", "10", "term")
	p.eventually("exited 4", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "term")
	p.want(0, "bye", "logs", "term")
	p.want(137, "", "run", "--name", "hungry", "--memory", "16m", "--memory-swap", "16m", "box", "hog", "memory", "100M")
	p.eventually("true", "inspect", "-f", "{{.State.OOMKilled}}", "hungry")
	p.eventually("healthy", "inspect", "-f", "{{.State.Health.Status}}", "healthy")
	p.eventually("unhealthy", "inspect", "-f", "{{.State.Health.Status}}", "ill")
	p.want(0, "a reason", "inspect", "-f", "{{range .State.Health.Log}}{{.Output}}{{end}}", "ill")
	p.eventually("exited 3 2", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "again")
	p.want(0, "", "rm", "-f", "healthy", "ill", "again", "term", "limits", "hungry")
	p.called("create", "start", "exec", "update", "pause", "resume", "kill", "delete")
}

// TestDockerUserNamespace: the daemon maps the containers' users to others.
func TestDockerUserNamespace(t *testing.T) { beside(t, testDockerUserNamespace) }

func testDockerUserNamespace(t *testing.T, runtime string) {
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} { // the tests' own /etc
		if err := os.WriteFile(file, []byte("nobody:300000:65536\nnogroup:300000:65536\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := startDocker(t, runtime, "--userns-remap", "nobody:nogroup")
	p.want(0, "     300000      65536", "run", "--rm", "box", "cat", "/proc/self/uid_map")
	p.want(0, "uid=0 gid=0", "run", "--rm", "box", "id")
	p.want(0, "uid=5 gid=6", "run", "--rm", "--user", "5:6", "box", "id")
	p.want(0, "4294967295", "run", "--rm", "--userns", "host", "box", "cat", "/proc/self/uid_map")
	p.want(0, "172.17.", "run", "--rm", "box", "ip", "address", "show", "eth0")
	p.want(0, "", "run", "-d", "--name", "box1", "--memory", "64m", "-v", "/vol", "box", "sleep", "1000")
	p.want(0, "300000", "exec", "box1", "cat", "/proc/self/gid_map")
	p.want(0, "x", "exec", "box1", "sh", "-c", "echo x >/vol/x && cat /vol/x")
	p.want(0, "operation not permitted", "exec", "box1", "sh", "-c", "mount -t tmpfs none /tmp || true")
	p.want(0, "", "pause", "box1")
	p.want(0, "", "unpause", "box1")
	p.want(0, "", "update", "--memory", "128m", "--memory-swap", "128m", "box1")
	p.want(0, "134217728", "exec", "box1", "sh", "-c", limit("memory/memory.limit_in_bytes", "memory.max"))
	p.want(0, "", "rm", "-f", "box1")
}
