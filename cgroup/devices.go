package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setDevices applies an ordered list of device rules, the last that matches wins.
func (g *Group) setDevices(rules []specs.LinuxDeviceCgroup) error {
	for _, r := range rules {
		if err := checkDevice(r); err != nil {
			return err
		}
	}
	if g.host.mode() == V2 {
		return attachDevices(filepath.Join(g.host.unified.mount, g.path), rules)
	}
	dir := g.host.dir("devices", g.path)
	if dir == "" {
		return errors.New("the devices controller is not mounted")
	}
	for _, r := range rules {
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		if err := write(filepath.Join(dir, file), deviceRule(r)); err != nil {
			return err
		}
	}
	return nil
}

func checkDevice(r specs.LinuxDeviceCgroup) error {
	switch r.Type {
	case "", "a", "b", "c":
	default:
		return fmt.Errorf("type %q: want a, b or c", r.Type)
	}
	if strings.Trim(r.Access, "rwm") != "" || r.Access == "" {
		return fmt.Errorf("access %q: want some of r, w, m", r.Access)
	}
	return nil
}

// all tells a rule for every device and access.
func all(r specs.LinuxDeviceCgroup) bool {
	any := func(n *int64) bool { return n == nil || *n < 0 }
	return (r.Type == "" || r.Type == "a") && any(r.Major) && any(r.Minor) &&
		strings.Contains(r.Access, "r") && strings.Contains(r.Access, "w") && strings.Contains(r.Access, "m")
}

// deviceRule is a rule in the form of v1's devices.allow: "c 1:3 rwm".
func deviceRule(r specs.LinuxDeviceCgroup) string {
	if all(r) {
		return "a"
	}
	kind := r.Type
	if kind == "" {
		kind = "a"
	}
	number := func(n *int64) string {
		if n == nil || *n < 0 {
			return "*"
		}
		return fmt.Sprint(*n)
	}
	return fmt.Sprintf("%s %s:%s %s", kind, number(r.Major), number(r.Minor), r.Access)
}

// Access and type of struct bpf_cgroup_dev_ctx; see linux/bpf.h.
const (
	accessMknod, accessRead, accessWrite = 1, 2, 4
	typeBlock, typeChar                  = 1, 2
)

// attachDevices attaches a filter program for the rules to a v2 directory, in place of an earlier one.
func attachDevices(dir string, rules []specs.LinuxDeviceCgroup) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return fmt.Errorf("query the device filters of %s: %w", dir, err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupDevice, Instructions: deviceProgram(rules), License: "Apache-2.0"})
	if err != nil {
		return fmt.Errorf("load the device filter: %w", err)
	}
	defer program.Close()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(f.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice, Flags: attachMulti})
	if err != nil {
		return fmt.Errorf("attach the device filter to %s: %w", dir, err)
	}
	for _, p := range old.Programs {
		if err := detach(int(f.Fd()), p.ID); err != nil {
			return fmt.Errorf("detach the old device filter of %s: %w", dir, err)
		}
	}
	return nil
}

const attachMulti = 2 // BPF_F_ALLOW_MULTI

func detach(target int, id ebpf.ProgramID) error {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	defer program.Close()
	return link.RawDetachProgram(link.RawDetachProgramOptions{Target: target, Program: program, Attach: ebpf.AttachCGroupDevice})
}

// deviceProgram compiles the rules, last first since the last that matches wins. Without a match access is denied,
// unless the first rule of all says otherwise.
func deviceProgram(rules []specs.LinuxDeviceCgroup) asm.Instructions {
	// R2 type, R3 access, R4 major, R5 minor; R1 is the context {u32 access<<16|type, major, minor}.
	code := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
		asm.Mov.Reg32(asm.R3, asm.R2),
		asm.And.Imm32(asm.R2, 0xffff),
		asm.RSh.Imm32(asm.R3, 16),
		asm.LoadMem(asm.R4, asm.R1, 4, asm.Word),
		asm.LoadMem(asm.R5, asm.R1, 8, asm.Word),
	}
	for i := len(rules) - 1; i >= 0; i-- {
		if all(rules[i]) { // what stands before it never matters, and the kernel refuses code that is not reached
			return append(code, verdict(rules[i])...)
		}
		code = append(code, deviceMatch(rules[i], fmt.Sprintf("rule%d", i))...)
	}
	return append(code, verdict(specs.LinuxDeviceCgroup{})...)
}

func verdict(r specs.LinuxDeviceCgroup) asm.Instructions {
	allowed := int32(0)
	if r.Allow {
		allowed = 1
	}
	return asm.Instructions{asm.Mov.Imm32(asm.R0, allowed), asm.Return()}
}

// deviceMatch returns the rule's verdict if it matches, else goes on behind its own code.
func deviceMatch(r specs.LinuxDeviceCgroup, name string) asm.Instructions {
	next := name + "-next"
	var code asm.Instructions
	if kind := map[string]int32{"b": typeBlock, "c": typeChar}[r.Type]; kind != 0 {
		code = append(code, asm.JNE.Imm(asm.R2, kind, next))
	}
	var access int32
	for letter, bit := range map[string]int32{"m": accessMknod, "r": accessRead, "w": accessWrite} {
		if strings.Contains(r.Access, letter) {
			access |= bit
		}
	}
	if access != accessMknod|accessRead|accessWrite {
		// An allowing rule must cover all that is asked, a denying one applies to any of it.
		code = append(code, asm.Mov.Reg32(asm.R6, asm.R3))
		if r.Allow {
			code = append(code, asm.And.Imm32(asm.R6, ^access), asm.JNE.Imm(asm.R6, 0, next))
		} else {
			code = append(code, asm.And.Imm32(asm.R6, access), asm.JEq.Imm(asm.R6, 0, next))
		}
	}
	if r.Major != nil && *r.Major >= 0 {
		code = append(code, asm.JNE.Imm(asm.R4, int32(*r.Major), next))
	}
	if r.Minor != nil && *r.Minor >= 0 {
		code = append(code, asm.JNE.Imm(asm.R5, int32(*r.Minor), next))
	}
	code = append(code, verdict(r)...)
	return append(code, asm.Mov.Imm32(asm.R0, 0).WithSymbol(next))
}
