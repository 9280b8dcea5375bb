package cli

import (
	"path"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"64m": 64 << 20, "1.5g": 3 << 29, "1024": 1024, "0": 0, "2KiB": 2048, "x": -1, "-5": -1, "": -1} {
		got, err := parseSize(text)
		if (err != nil) != (want < 0) || err == nil && int64(got) != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	var swap swapValue
	if err := swap.Set("-1"); err != nil || swap != -1 {
		t.Errorf("--memory-swap -1 is %d, %v", swap, err)
	}
}

func TestCPUs(t *testing.T) {
	for text, want := range map[string]int64{"0.5": 5e8, "2": 2e9, "1/4": 25e7, ".000000001": 1, "0.0000000001": -1, "x": -1, "1e99999999": -1, "99999999999999": -1} {
		got, err := parseCPUs(text)
		if (err != nil) != (want < 0) || err == nil && int64(got) != want {
			t.Errorf("parseCPUs(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestBadFlagValues(t *testing.T) {
	for _, args := range [][]string{
		{"-p", "70000:80"},
		{"-p", "1:2:3:4"},
		{"-p", "80/foo"},
		{"-p", ""},
		{"--expose", "80:90"},
		{"--expose", "9-1"},
		{"-v", ""},
		{"-v", ":/x"},
		{"--mount", "type=bind,src=/a"},
		{"--mount", "dst=/a,foo=bar"},
		{"--mount", "dst=/a,readonly=maybe"},
		{"--mount", "type=bind,src=/a,dst=/b,volume-nocopy"},
		{"--mount", "type=bind,src=/a,dst=/b,bind-recursive=readonly"},
		{"--mount", "type=tmpfs,dst=/b,tmpfs-size=lots"},
		{"--mount", `dst=/a,"`},
		{"--device", "a:b:c:d"},
		{"--device", "/dev/a:/dev/b:rwx"},
		{"--ulimit", "nofile=20:10"},
		{"--ulimit", "bogus=1"},
		{"--restart", "sometimes"},
		{"--restart", "always:3"},
		{"--restart", "on-failure:x"},
		{"--restart", ":3"},
		{"--memory-swappiness", "101"},
		{"--blkio-weight-device", "/dev/sda:5"},
		{"--blkio-weight-device", "sda:50"},
		{"--device-read-bps", "/dev/sda:-1"},
		{"--device-read-iops", "/dev/sda:1k"},
		{"--add-host", "nothing"},
		{"--add-host", "a:999.1.1.1"},
		{"--dns", "example.org"},
		{"--ip", "1.2.3"},
		{"--mac-address", "zz"},
		{"--network", "name=a,foo=b"},
		{"--network", "ip=1.2.3.4"},
		{"--network", "host", "--network", "b"},
		{"--network", "b", "--network", "b"},
		{"--pid", "nobody"},
		{"--cgroupns", "nobody"},
		{"--platform", "a/b/c/d"},
		{"--health-retries", "-1"},
		{"--no-healthcheck", "--health-cmd", "x"},
		{"-a", "stdfoo"},
		{"-e", "=x"},
		{"--env-file", "/nonexistent"},
		{"-l", "=x"},
		{"--detach-keys", "ctrl-1"},
	} {
		s := newEngineStub(t)
		got := s.gantry("", append(append([]string{"run"}, args...), "img")...)
		if got.code != 125 || len(s.seen()) != 0 {
			t.Errorf("run %q: exit code %d, requests %q; want a refusal", args, got.code, s.seen())
		}
	}
}

func FuzzPorts(f *testing.F) {
	for _, seed := range []string{"80", "8080:80/udp", "127.0.0.1:8000-8001:90-91", "[::1]:1:2", "published=1,target=2", "::", "-"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		exposed, bindings, err := parsePorts([]string{spec}, nil)
		if err != nil {
			return
		}
		if len(exposed) == 0 || len(bindings) != len(exposed) {
			t.Errorf("%q: %d exposed, %d bound", spec, len(exposed), len(bindings))
		}
		for port := range bindings {
			if again, err := network.ParsePort(port.String()); err != nil || again != port {
				t.Errorf("%q: port %v does not survive its text: %v", spec, port, err)
			}
		}
	})
}

func FuzzMount(f *testing.F) {
	for _, seed := range []string{
		"type=bind,src=/a,dst=/b,ro", "type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770", `dst=/v,"volume-opt=o=a,b"`,
		"type=bind,src=./x,dst=/b,bind-recursive=disabled", "dst=/a,volume-label=x", "=", ",",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		m, err := parseMount(spec)
		if err == nil && m.Target == "" {
			t.Errorf("%q: accepted without a target", spec)
		}
	})
}

func FuzzVolumes(f *testing.F) {
	for _, seed := range []string{"/a:/b:ro", "/anon", "./x:/y", "..:/y", "name:/z", ":", "a:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		anonymous, binds, err := parseVolumes([]string{spec})
		if err != nil {
			return
		}
		if len(anonymous)+len(binds) != 1 {
			t.Errorf("%q: %d volumes and %d binds", spec, len(anonymous), len(binds))
		}
		for _, bind := range binds {
			source, _, _ := strings.Cut(bind, ":")
			if first, _, _ := strings.Cut(source, "/"); first == "." || first == ".." || strings.HasPrefix(spec, "./") && !path.IsAbs(source) {
				t.Errorf("%q: relative source %q", spec, source)
			}
		}
	})
}

func FuzzNetwork(f *testing.F) {
	for _, seed := range []string{"host", "name=a,ip=1.2.3.4", "name=a,driver-opt=x=y,gw-priority=1", "=", `"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		if n, err := parseNetwork(spec); err == nil && n.name == "" {
			t.Errorf("%q: accepted without a name", spec)
		}
	})
}

func FuzzNumbers(f *testing.F) {
	for _, seed := range []string{"0.5", "64m", "1e9", "1/3", "-1", "/dev/sda:1mb", "on-failure:3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseSize(text); err == nil && n < 0 {
			t.Errorf("size %q is negative", text)
		}
		_, _ = parseCPUs(text)
		_, _ = parseRestart(text)
		_, _ = parseThrottles([]string{text}, true)
		_, _ = parseWeightDevices([]string{text})
		_, _ = parseDevice(text)
		_, _ = parsePlatform(text)
		_, _ = parseExtraHosts([]string{text})
	})
}

func FuzzKeyValues(f *testing.F) {
	f.Add([]byte("A=b\n#c\nD\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := parseKeyValues(data, nil)
		if err != nil {
			return
		}
		for _, line := range lines {
			if name, _, _ := strings.Cut(line, "="); name == "" {
				t.Errorf("%q: a line without a name", data)
			}
		}
	})
}
