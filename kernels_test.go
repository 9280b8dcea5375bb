package gantry

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// floor is the oldest kernel that Gantry runs on.
const floor = "5.14"

// newer lists what kernels after the floor have brought, by what a source file calls it. It is used where used says so, with
// the test of what happens without it; docs/kernels.md has the same table in words.
var newer = []struct {
	since, pattern string
	used           map[string]string // file: test
}{
	{"5.15", `MOVE_MOUNT_SET_GROUP|ProcessMrelease|SYS_PROCESS_MRELEASE`, nil},
	{"5.15", `"cpu\.idle"`, map[string]string{
		"cgroup/limits_v2.go": "TestOlderKernel", "cgroup/limits.go": "TestOlderKernel", "cgroup/systemd_unified.go": "TestUnitProperties",
	}},
	{"5.16", `SYS_FUTEX_WAITV`, nil},
	{"5.17", `SYS_SET_MEMPOLICY_HOME_NODE|PR_SET_VMA`, nil},
	{"5.19", `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, map[string]string{
		"oci/seccomp/known.go": "TestKnown", "oci/seccomp/seccomp.go": "TestFilterFlagsOfNewerKernels",
	}},
	{"5.19", `"memory\.peak"`, map[string]string{"cgroup/stats.go": "TestOlderKernel"}},
	{"5.19", `"memory\.reclaim"|"memory\.zswap\.max"|UDP_L3MDEV`, nil},
	{"6.0", `NLM_F_BULK`, nil},
	{"6.1", `"pids\.peak"|"cgroup\.pressure"`, nil},
	{"6.2", `NFT_MSG_GETRULE_RESET`, nil},
	{"6.3", `MFD_EXEC|MFD_NOEXEC_SEAL|F_SEAL_EXEC|PR_SET_MDWE|NFT_MSG_DESTROY|\.DestroySet|\.DestroyTable`, nil},
	{"6.4", `PR_SET_MEMORY_MERGE`, nil},
	{"6.5", `SCM_PIDFD|SO_PASSPIDFD|SO_PEERPIDFD|MOVE_MOUNT_BENEATH|SYS_CACHESTAT|\bCachestat\(`, nil},
	{"6.5", `"memory\.swap\.peak"`, map[string]string{"cgroup/stats_more.go": "TestOlderKernel"}},
	{"6.6", `SYS_FCHMODAT2|Fchmodat\([^)]*AT_SYMLINK_NOFOLLOW|FSCONFIG_CMD_CREATE_EXCL|SYS_MAP_SHADOW_STACK`, nil},
	{"6.7", `SYS_FUTEX_(WAKE|WAIT|REQUEUE)\b`, nil},
	{"6.8", `SYS_STATMOUNT|SYS_LISTMOUNT|STATX_MNT_ID_UNIQUE|SYS_LSM_|"memory\.zswap\.writeback"`, nil},
	{"6.8", `"(lowerdir|datadir)\+"`, map[string]string{"oci/overlay/overlay.go": "TestMount", "oci/overlay/options.go": "TestParse"}},
	{"6.9", `PIDFD_THREAD|PIDFD_SIGNAL_|NFT_TABLE_F_PERSIST|MPOL_WEIGHTED_INTERLEAVE`, map[string]string{
		"oci/scheduling.go": "TestMemoryPolicyOfNewerKernels",
	}},
	{"6.10", `SYS_MSEAL|\bMseal\(`, nil},
	{"6.11", `PIDFD_GET_[A-Z]*_NAMESPACE`, nil},
	{"6.13", `SYS_(SET|GET|LIST|REMOVE)XATTRAT|FSCONFIG_SET_FD`, nil},
	{"6.14", `AT_EXECVE_CHECK|PIDFD_SELF`, nil},
	{"6.15", `PIDFD_INFO_EXIT`, map[string]string{"internal/shim/process.go": "TestUnknownExit", "internal/shim/client/exit.go": "TestUnknownExit"}},
	{"6.15", `SYS_OPEN_TREE_ATTR`, nil},
	{"6.15", `"take the empty directory"`, map[string]string{"oci/mask.go": "TestMaskAsAnOlderKernelDoes"}},
	{"6.17", `SYS_FILE_[GS]ETATTR`, nil},
	{"6.19", `SYS_LISTNS`, nil},
}

// generated are tables of everything that any kernel has.
var generated = []string{"oci/seccomp/zcalls.go", "kernels_test.go"}

// TestNewerKernels finds uses of what the floor lacks: each must be known, and have a test of what is done without it.
func TestNewerKernels(t *testing.T) {
	sources, tests := map[string]string{}, map[string]bool{}
	testName := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || slices.Contains(generated, path) {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
				tests[m[1]] = true
			}
			return err
		}
		sources[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range newer {
		pattern := regexp.MustCompile(n.pattern)
		for path, text := range sources {
			if found := pattern.FindString(text); found != "" && n.used[path] == "" {
				t.Errorf("%s uses %s of Linux %s, and Gantry runs from %s on: test what happens without it, and add it here", path, found, n.since, floor)
			}
		}
		for path, test := range n.used {
			if !pattern.MatchString(sources[path]) {
				t.Errorf("%s does not use %s any more", path, n.pattern)
			}
			if !tests[test] {
				t.Errorf("%s: there is no test %s", path, test)
			}
		}
	}
}
