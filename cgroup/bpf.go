package cgroup

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The few parts of bpf(2) that a device filter needs, said to the kernel directly: a library for all of BPF costs
// every start of the runtime its initialization, and this is one kind of program without maps or types.

// insn is struct bpf_insn of linux/bpf.h.
type insn struct {
	code uint8
	regs uint8 // low half: destination, high half: source
	off  int16
	imm  int32
}

// Codes of instructions: the class, the operation and the form together.
const (
	loadWord  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	moveReg32 = unix.BPF_ALU | bpfMov | unix.BPF_X
	moveImm32 = unix.BPF_ALU | bpfMov | unix.BPF_K
	andImm32  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	shrImm32  = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	jumpEq32  = bpfJump32 | unix.BPF_JEQ | unix.BPF_K
	jumpNe32  = bpfJump32 | bpfJne | unix.BPF_K
	exitProg  = unix.BPF_JMP | bpfExit

	bpfMov, bpfJump32, bpfJne, bpfExit = 0xb0, 0x06, 0x50, 0x90
)

func regs(dst, src uint8) uint8 { return dst | src<<4 }

// bpf calls bpf(2) with one of its attributes, which begins with what the command reads.
func bpf[T any](command uintptr, attr *T) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// loadDeviceFilter gives the kernel a program for BPF_CGROUP_DEVICE; the file is its descriptor.
func loadDeviceFilter(code []insn) (*os.File, error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', '-', '2', '.', '0', 0}
	attr := struct {
		kind, count        uint32
		code, license      uint64
		logLevel, logSize  uint32
		log                uint64
		kernVersion, flags uint32
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)), code: address(unsafe.SliceData(code)), license: address(&license[0])}
	fd, err := bpf(unix.BPF_PROG_LOAD, &attr)
	for range 100 { // the kernel's check gives up when a signal comes, and Go's runtime sends itself some
		if err != unix.EAGAIN {
			break
		}
		fd, err = bpf(unix.BPF_PROG_LOAD, &attr)
	}
	runtime.KeepAlive(code)
	runtime.KeepAlive(&license)
	if err != nil {
		return nil, fmt.Errorf("load a device filter of %d instructions: %w", len(code), err)
	}
	return os.NewFile(uintptr(fd), "device filter"), nil
}

func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// attachment is what BPF_PROG_ATTACH and BPF_PROG_DETACH read.
type attachment struct {
	target, program, kind, flags uint32
}

func attachFilter(dir, program *os.File) error {
	_, err := bpf(unix.BPF_PROG_ATTACH, &attachment{
		target: uint32(dir.Fd()), program: uint32(program.Fd()), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI,
	})
	return err
}

// detachFilter detaches a program by its id.
func detachFilter(dir *os.File, id uint32) error {
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, &struct{ id, next, flags uint32 }{id: id})
	if err != nil {
		return fmt.Errorf("open program %d: %w", id, err)
	}
	defer unix.Close(fd)
	_, err = bpf(unix.BPF_PROG_DETACH, &attachment{target: uint32(dir.Fd()), program: uint32(fd), kind: unix.BPF_CGROUP_DEVICE})
	return err
}

// maxFilters is the kernel's limit of programs on one cgroup; see BPF_CGROUP_MAX_PROGS.
const maxFilters = 64

// deviceFilters are the ids of the programs that are attached to a directory itself.
func deviceFilters(dir *os.File) ([]uint32, error) {
	ids := make([]uint32, maxFilters)
	attr := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count, _                         uint32
	}{target: uint32(dir.Fd()), kind: unix.BPF_CGROUP_DEVICE, ids: address(&ids[0]), count: maxFilters}
	_, err := bpf(unix.BPF_PROG_QUERY, &attr)
	runtime.KeepAlive(ids)
	if err != nil {
		return nil, err
	}
	return ids[:attr.count], nil
}
