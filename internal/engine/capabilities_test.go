package engine

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCapabilities(t *testing.T) {
	without := func(list []string, drop ...string) []string {
		return slices.DeleteFunc(sorted(list), func(c string) bool { return slices.Contains(drop, c) })
	}
	for name, tc := range map[string]struct {
		add, drop  []string
		privileged bool
		want       []string
	}{
		"default":         {want: sorted(defaultCapabilities)},
		"add":             {add: []string{"net_admin"}, want: sorted(append(slices.Clone(defaultCapabilities), "CAP_NET_ADMIN"))},
		"add twice":       {add: []string{"CHOWN", "cap_chown"}, want: sorted(defaultCapabilities)},
		"drop":            {drop: []string{"CAP_MKNOD"}, want: without(defaultCapabilities, "CAP_MKNOD")},
		"drop all":        {drop: []string{"ALL"}, want: nil},
		"drop all, add":   {drop: []string{"all"}, add: []string{"kill"}, want: []string{"CAP_KILL"}},
		"add all":         {add: []string{"ALL"}, want: sorted(available(t))},
		"add all, drop":   {add: []string{"ALL"}, drop: []string{"sys_admin"}, want: without(available(t), "CAP_SYS_ADMIN")},
		"add beats drop":  {add: []string{"CHOWN"}, drop: []string{"CHOWN"}, want: sorted(defaultCapabilities)},
		"privileged wins": {drop: []string{"ALL"}, privileged: true, want: sorted(available(t))},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := capabilities(tc.add, tc.drop, tc.privileged)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v\nwant %v", got, tc.want)
			}
		})
	}
	for _, bad := range []string{"", "FOO", "CAP_", "CHOWN,KILL"} {
		if _, err := capabilities([]string{bad}, nil, false); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("adding %q: got %v, want an invalid argument", bad, err)
		}
	}
}

// available reads the engine's own capabilities as the kernel tells them in /proc.
func available(t *testing.T) (list []string) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "CapPrm:")
	set, err := strconv.ParseUint(strings.Fields(text)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range allCapabilities {
		if set&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}
