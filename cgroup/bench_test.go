package cgroup

import (
	"fmt"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// BenchmarkPrepared is what a pool of groups made ahead would save at a start: Create of a group that is there already,
// beside one that is new. See docs/cgroup.md.
func BenchmarkPrepared(b *testing.B) {
	limits := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}}
	for _, prepared := range []bool{false, true} {
		b.Run(fmt.Sprint(prepared), func(b *testing.B) {
			parent := fmt.Sprintf("/gantry-cgroup-prepared-%d", os.Getpid())
			above, err := Create(parent, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := above.Delete(); err != nil {
					b.Error(err)
				}
			}()
			for i := range b.N {
				path := fmt.Sprintf("%s/%d", parent, i)
				b.StopTimer()
				if prepared {
					if _, err := Create(path, nil); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				g, err := Create(path, limits)
				b.StopTimer()
				if err != nil {
					b.Fatal(err)
				}
				if err := g.Delete(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
