package cgroup

import (
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// shown is a property in words: its name, type and, in hexadecimal, its value, which begins at an aligned place.
func shown(list []property) string {
	var words []string
	for _, p := range list {
		var b dbusBody
		p.put(&b)
		words = append(words, fmt.Sprintf("%s %s %x", p.name, p.signature, []byte(b)))
	}
	return strings.Join(words, "; ")
}

func TestAnnotations(t *testing.T) {
	for text, want := range map[string]string{
		"true":                "Any b 01000000",
		"boolean false":       "Any b 00000000",
		"7":                   "Any i 07000000",
		"-1":                  "Any i ffffffff",
		"uint64 0x10":         "Any t 1000000000000000",
		"@q 258":              "Any q 0201",
		"1.5":                 "Any d 000000000000f83f",
		"'a b'":               "Any s 03000000" + "612062" + "00",
		"\"it's\"":            "Any s 04000000" + "69742773" + "00",
		"'it\\'s'":            "Any s 04000000" + "69742773" + "00",
		"objectpath '/a'":     "Any o 02000000" + "2f61" + "00",
		"signature 'as'":      "Any g 026173" + "00",
		"[byte 1, 2, byte 3]": "Any ay 03000000" + "010203",
		"@as []":              "Any as 00000000",
		"['a', 'b']":          "Any as 0e000000" + "010000006100" + "0000" + "010000006200",
		"@at [1]":             "Any at 08000000" + "00000000" + "0100000000000000",
	} {
		list, err := annotated(map[string]string{propertyPrefix + "Any": text, "org.example": "'x"})
		if got := shown(list); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	for key, want := range map[string]string{"TimeoutStopSec=int32 5": "TimeoutStopUSec t 404b4c0000000000", "TimeoutStopSec=0.5": "TimeoutStopUSec t 20a1070000000000", "MaxSEC=1": "MaxSEC i 01000000"} {
		name, text, _ := strings.Cut(key, "=")
		list, err := annotated(map[string]string{propertyPrefix + name: text})
		if got := shown(list); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", key, got, err, want)
		}
	}
	for _, bad := range []string{
		"An=1", "A.b=1", "Any=", "Any=x", "Any='a", "Any=1 2", "Any=@q 70000", "Any=uint32 -1", "Any=[1,", "Any=[]", "Any=[1, 'a']", "Any=@z 1",
		"Any=boolean 1", "Any=string 1", "Any=int32 'a'", "StopSec='a'", "StopSec=-1", "Any=@a [1]", "Any=@", "Any=" + strings.Repeat("[", 100), "Any=int32",
	} {
		name, text, _ := strings.Cut(bad, "=")
		if list, err := annotated(map[string]string{propertyPrefix + name: text}); err == nil || !strings.Contains(err.Error(), propertyPrefix+name) {
			t.Errorf("%s: %s, %v", bad, shown(list), err)
		}
	}
}

func FuzzAnnotation(f *testing.F) {
	for _, text := range []string{"uint64 5", "[1, 2]", "@as ['a']", "'\\n'"} {
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		if p, err := propertyOf("Any", text); err == nil {
			var b dbusBody
			p.put(&b) // whatever it is, without a panic
		}
	})
}

func TestDeviceList(t *testing.T) {
	deny := specs.LinuxDeviceCgroup{Access: "rwm"}
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	for name, c := range map[string]struct {
		rules             []specs.LinuxDeviceCgroup
		want              string
		everything, exact bool
	}{
		"a container's": {[]specs.LinuxDeviceCgroup{deny, rule(true, "c", 1, 3, "rwm"), rule(true, "b", 8, -1, "r"), rule(true, "c", -1, -1, "m")}, "[{/dev/char/1:3 rwm} {block-8 r} {char-* m}]", false, true},
		"both kinds":    {[]specs.LinuxDeviceCgroup{deny, rule(true, "a", 1, 3, "r")}, "[{/dev/block/1:3 r} {/dev/char/1:3 r}]", false, true},
		"privileged":    {[]specs.LinuxDeviceCgroup{deny, {Allow: true, Access: "rwm"}, rule(true, "c", 1, 3, "r")}, "[]", true, true},
		"all but":       {[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, rule(false, "c", 1, 3, "r")}, "[]", true, false},
		"taken back":    {[]specs.LinuxDeviceCgroup{deny, rule(true, "c", 1, 3, "rw"), rule(false, "c", 1, 3, "w")}, "[{/dev/char/1:3 r}]", false, true},
		"more":          {[]specs.LinuxDeviceCgroup{deny, rule(true, "c", 1, 3, "r"), rule(true, "c", 1, 3, "w")}, "[{/dev/char/1:3 rw}]", false, true},
		"any major":     {[]specs.LinuxDeviceCgroup{deny, rule(true, "c", -1, 3, "r")}, "[]", false, false},
		"of many":       {[]specs.LinuxDeviceCgroup{deny, rule(true, "c", 1, -1, "rw"), rule(false, "c", 1, 3, "w")}, "[{char-1 rw}]", false, false},
	} {
		list, everything, exact := deviceList(c.rules)
		if policy := fmt.Sprint(shown(deviceProperties(c.rules, true))); strings.Contains(policy, "6175746f") != (everything || name == "any major") { // "auto"
			t.Errorf("%s: v2: %s", name, policy)
		}
		if policy := fmt.Sprint(shown(deviceProperties(c.rules, false))); strings.Contains(policy, "6175746f") != (everything && exact) {
			t.Errorf("%s: v1: %s", name, policy)
		}
		if got := fmt.Sprint(list); got != c.want || everything != c.everything || exact != c.exact {
			t.Errorf("%s: %s, everything %v, exact %v", name, got, everything, exact)
		}
	}
}

func TestUnitProperties(t *testing.T) {
	res := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(256)), Swap: ptr(int64(512)), Reservation: ptr(int64(1))},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(0))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(1234)), Period: ptr(uint64(10_000)), Cpus: "0-1"},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(3))},
	}
	want := map[bool]string{
		true: "MemoryMax t 0001000000000000; MemoryLow t 0100000000000000; MemorySwapMax t 0001000000000000; TasksMax t 0100000000000000; " +
			"CPUWeight t 6400000000000000; CPUQuotaPeriodUSec t 1027000000000000; CPUQuotaPerSecUSec t d0fb010000000000; AllowedCPUs ay 0100000003",
		false: "MemoryLimit t 0001000000000000; TasksMax t 0100000000000000; BlockIOWeight t 0300000000000000; " +
			"CPUShares t 0004000000000000; CPUQuotaPeriodUSec t 1027000000000000; CPUQuotaPerSecUSec t d0fb010000000000; AllowedCPUs ay 0100000003",
	}
	for v2, want := range want {
		list, err := unitProperties(res, v2, func() int { return 0 })
		if got := shown(list); err != nil || got != want {
			t.Errorf("v2 %v:\n%s, %v, want\n%s", v2, got, err, want)
		}
	}
	unified := map[string]string{"cpu.max": "max 20000", "memory.high": " 16\n", "pids.max": "max", "cpuset.mems": "0", "cpu.idle": "1", "cpu.weight": "5", "hugetlb.2MB.max": "0"}
	list, err := unitProperties(&specs.LinuxResources{Unified: unified}, true, func() int { return idleVersion })
	if got := shown(list); err != nil || got != "CPUWeight t 0000000000000000; CPUQuotaPeriodUSec t 204e000000000000; CPUQuotaPerSecUSec t ffffffffffffffff; "+
		"AllowedMemoryNodes ay 0100000001; MemoryHigh t 1000000000000000; TasksMax t ffffffffffffffff" {
		t.Errorf("unified: %s, %v", got, err)
	}
	for file, value := range map[string]string{"memory.high": "x", "cpu.max": "", "cpuset.cpus": "3-1", "pids.max": "-1"} {
		if _, err := unitProperties(&specs.LinuxResources{Unified: map[string]string{file: value}}, true, nil); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("unified %s %q: %v", file, value, err)
		}
	}
}

func TestBusPath(t *testing.T) {
	for address, want := range map[string]string{
		"unix:path=/run/user/1000/bus": "/run/user/1000/bus", "unix:guid=1,path=/a%20b;unix:path=/c": "/a b", "unix:abstract=/x": "", "": "", "tcp:host=x": "",
		"unix:path=%2fa%c3%a9%25": "/aé%", "unix:path=/a%2": "", "unix:path=/a%zz": "", "unix:path=/a%;unix:path=/b": "/b",
	} {
		if got := busPath(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}
