package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// attempt is a call that the child makes under the filter.
type attempt struct {
	Number uintptr
	Args   [3]uintptr
}

type order struct {
	Profile  *specs.LinuxSeccomp
	Attempts []attempt
	Execute  []string // instead
}

const orderVariable = "SECCOMP_TEST_ORDER"

func TestMain(m *testing.M) {
	if text := os.Getenv(orderVariable); text != "" {
		if err := obey(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// obey loads the profile's filter into this thread, makes the calls and prints their errnos.
func obey(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	program, err := Compile(o.Profile)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program.Filter)), Filter: &program.Filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(program.Flags), uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		return fmt.Errorf("load a filter of %d instructions: %w", len(program.Filter), errno)
	}
	if len(o.Execute) > 0 {
		return syscall.Exec(o.Execute[0], o.Execute, nil)
	}
	errnos := make([]int, len(o.Attempts))
	for i, a := range o.Attempts {
		_, _, errno := unix.Syscall(a.Number, a.Args[0], a.Args[1], a.Args[2])
		errnos[i] = int(errno)
	}
	return json.NewEncoder(os.Stdout).Encode(errnos)
}

func under(t *testing.T, o order) ([]int, error) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{orderVariable + "=" + string(text)}
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var errnos []int
	if err := json.Unmarshal(out, &errnos); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return errnos, nil
}

func TestKernelObeysTheDefaultProfile(t *testing.T) {
	const any = -1 // whatever the kernel says, but not the filter's errno
	cases := []struct {
		name string
		attempt
		want int
	}{
		{"getpid", attempt{Number: unix.SYS_GETPID}, 0},
		{"socket AF_INET", attempt{unix.SYS_SOCKET, [3]uintptr{unix.AF_INET, unix.SOCK_DGRAM, 0}}, 0},
		{"socket AF_ALG", attempt{unix.SYS_SOCKET, [3]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}}, int(unix.EPERM)},
		{"socket AF_VSOCK", attempt{unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM, 0}}, int(unix.EPERM)},
		{"personality query", attempt{unix.SYS_PERSONALITY, [3]uintptr{0xffffffff}}, 0},
		{"personality MMAP_PAGE_ZERO", attempt{unix.SYS_PERSONALITY, [3]uintptr{0x0100000}}, int(unix.EPERM)},
		{"mount", attempt{Number: unix.SYS_MOUNT}, int(unix.EPERM)},
		{"unshare", attempt{unix.SYS_UNSHARE, [3]uintptr{0xffffffff}}, int(unix.EPERM)},
		{"keyctl", attempt{unix.SYS_KEYCTL, [3]uintptr{99}}, int(unix.EPERM)},
		{"bpf", attempt{unix.SYS_BPF, [3]uintptr{99}}, int(unix.EPERM)},
		{"clone of a namespace", attempt{unix.SYS_CLONE, [3]uintptr{unix.CLONE_NEWUSER | unix.CLONE_SIGHAND}}, int(unix.EPERM)},
		{"clone of a plain process", attempt{unix.SYS_CLONE, [3]uintptr{unix.CLONE_SIGHAND}}, any},
		{"clone3", attempt{Number: unix.SYS_CLONE3}, int(unix.ENOSYS)},
		{"a call that does not exist", attempt{Number: 5000}, int(unix.ENOSYS)},
	}
	o := order{Profile: defaultProfile(t)}
	for _, c := range cases {
		o.Attempts = append(o.Attempts, c.attempt)
	}
	got, err := under(t, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if got[i] != c.want && !(c.want == any && got[i] != int(unix.EPERM) && got[i] != 0) {
			t.Errorf("%s: %v; want %v", c.name, syscall.Errno(got[i]), syscall.Errno(c.want))
		}
	}
}

func TestKernelComparesWholeArguments(t *testing.T) {
	errno := uint(77)
	o := order{Profile: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}}
	var want []int
	for i, op := range operators {
		o.Profile.Syscalls = append(o.Profile.Syscalls, specs.LinuxSyscall{
			Names: []string{"getpid"}, Action: specs.ActErrno, ErrnoRet: &errno,
			Args: []specs.LinuxSeccompArg{
				{Index: 0, Op: specs.OpEqualTo, Value: uint64(i)},
				{Index: 1, Op: op, Value: 0xf_0000_000f, ValueTwo: 0xf_0000_000f},
			},
		})
		for _, v := range []uint64{0xf, 0xf_0000_000e, 0xf_0000_000f, 0xf_0000_0010, 0x10_0000_0000, 0x1f_0000_001f} {
			o.Attempts = append(o.Attempts, attempt{unix.SYS_GETPID, [3]uintptr{uintptr(i), uintptr(v)}})
			expected := 0
			if holds(o.Profile.Syscalls[i].Args[1:], event{args: [6]uint64{1: v}}, false) {
				expected = int(errno)
			}
			want = append(want, expected)
		}
	}
	got, err := under(t, o)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("errnos %v, %v; want %v", got, err, want)
	}
}

func TestKernelKills(t *testing.T) {
	for _, act := range []specs.LinuxSeccompAction{specs.ActKillProcess, specs.ActTrap} {
		o := order{
			Profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"getppid"}, Action: act}},
			},
			Attempts: []attempt{{Number: unix.SYS_GETPPID}},
		}
		_, err := under(t, o)
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%s: %v; want an end by SIGSYS", act, err)
		}
		// Go's runtime turns a trap into a crash with a trace.
		status := exit.Sys().(syscall.WaitStatus)
		if status.Signal() != unix.SIGSYS && !(act == specs.ActTrap && strings.Contains(exit.String(), "exit status 2")) {
			t.Errorf("%s: %v; want an end by SIGSYS", act, err)
		}
	}
}

// TestKernelObeysForNarrowPrograms: a 32-bit program is refused the families of sockets that a 64-bit one is
// (CVE-2026-31431). What it asks for by socketcall(2), no filter can see.
func TestKernelObeysForNarrowPrograms(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the kernel runs programs of another architecture on amd64 only")
	}
	program := filepath.Join(t.TempDir(), "narrow")
	build := exec.Command("go", "build", "-o", program, "./testdata/narrow")
	build.Env = append(os.Environ(), "GOARCH=386", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := exec.Command(program).Run(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("this kernel runs no 32-bit programs: nothing to refuse")
	}
	text, err := json.Marshal(order{Profile: defaultProfile(t), Execute: []string{program, fmt.Sprint(unix.AF_INET), fmt.Sprint(unix.AF_ALG), fmt.Sprint(unix.AF_VSOCK)}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = []string{orderVariable + "=" + string(text)}, t.Output()
	out, err := cmd.Output()
	if want := fmt.Sprintf("0\n%d\n%d\n", unix.EPERM, unix.EPERM); err != nil || string(out) != want {
		t.Errorf("errnos %q (%v), want %q", out, err, want)
	}
}
