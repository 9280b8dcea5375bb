package spawn

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// hidden counts those who want this process not to be dumpable; see PR_SET_DUMPABLE(2const).
var hidden struct {
	sync.Mutex
	by  int
	was int
}

// hide makes this process not dumpable until the returned function is called. A child is what its parent is: one that
// is born into a pid namespace with others in it must not be looked into for a moment (CVE-2016-9962). For others than
// root nothing is done: they would lose their own files of /proc, and the processes of user namespaces below have no
// rights over a child that has not joined them.
func hide() (show func(), err error) {
	if os.Geteuid() != 0 {
		return func() {}, nil
	}
	hidden.Lock()
	defer hidden.Unlock()
	if hidden.by == 0 {
		if hidden.was, err = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("tell whether this process is dumpable: %w", err)
		}
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("make this process not dumpable: %w", err)
		}
	}
	hidden.by++
	return func() {
		hidden.Lock()
		defer hidden.Unlock()
		if hidden.by--; hidden.by == 0 && hidden.was == 1 { // 2, for root only, is what a process cannot ask for
			_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		}
	}, nil
}
