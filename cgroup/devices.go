package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setDevices applies an ordered list of device rules, the last that matches wins.
func (g *Group) setDevices(rules []specs.LinuxDeviceCgroup) error {
	rules = slices.Clone(rules)
	for i, r := range rules {
		rules[i].Access = strings.ReplaceAll(r.Access, "a", "") // some write "rwa", and runc takes it for "rw"
		if err := checkDevice(rules[i]); err != nil {
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
	return writeDeviceRules(dir, rules)
}

// writeDeviceRules writes v1's files: one rule at a time, in their order.
func writeDeviceRules(dir string, rules []specs.LinuxDeviceCgroup) error {
	allow, err := openToWrite(filepath.Join(dir, "devices.allow"))
	if err != nil {
		return err
	}
	defer allow.close()
	deny, err := openToWrite(filepath.Join(dir, "devices.deny"))
	if err != nil {
		return err
	}
	defer deny.close()
	for _, r := range rules {
		to := deny
		if r.Allow {
			to = allow
		}
		if err := to.write(deviceRule(r)); err != nil {
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
	old, err := deviceFilters(f)
	if err != nil {
		return fmt.Errorf("query the device filters of %s: %w", dir, err)
	}
	program, err := loadDeviceFilter(deviceProgram(rules))
	if err != nil {
		return err
	}
	defer program.Close()
	if err := attachFilter(f, program); err != nil {
		return fmt.Errorf("attach a device filter to %s: %w", dir, err)
	}
	for _, id := range old {
		if err := detachFilter(f, id); err != nil {
			return fmt.Errorf("detach the old device filter of %s: %w", dir, err)
		}
	}
	return nil
}

// deviceProgram compiles the rules, last first since the last that matches wins. Without a match access is denied,
// unless the first rule of all says otherwise.
func deviceProgram(rules []specs.LinuxDeviceCgroup) []insn {
	// R2 type, R3 access, R4 major, R5 minor; R1 is the context {u32 access<<16|type, major, minor}.
	code := []insn{
		{code: loadWord, regs: regs(2, 1)},
		{code: moveReg32, regs: regs(3, 2)},
		{code: andImm32, regs: regs(2, 0), imm: 0xffff},
		{code: shrImm32, regs: regs(3, 0), imm: 16},
		{code: loadWord, regs: regs(4, 1), off: 4},
		{code: loadWord, regs: regs(5, 1), off: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		if all(rules[i]) { // what stands before it never matters, and the kernel refuses code that is not reached
			return append(code, verdict(rules[i])...)
		}
		code = append(code, deviceMatch(rules[i])...)
	}
	return append(code, verdict(specs.LinuxDeviceCgroup{})...)
}

func verdict(r specs.LinuxDeviceCgroup) []insn {
	allowed := int32(0)
	if r.Allow {
		allowed = 1
	}
	return []insn{{code: moveImm32, imm: allowed}, {code: exitProg}}
}

// deviceMatch returns the rule's verdict if it matches, else goes on behind its own code.
func deviceMatch(r specs.LinuxDeviceCgroup) []insn {
	var code []insn
	if kind := map[string]int32{"b": typeBlock, "c": typeChar}[r.Type]; kind != 0 {
		code = append(code, insn{code: jumpNe32, regs: regs(2, 0), imm: kind})
	}
	var access int32
	for letter, bit := range map[string]int32{"m": accessMknod, "r": accessRead, "w": accessWrite} {
		if strings.Contains(r.Access, letter) {
			access |= bit
		}
	}
	if access != accessMknod|accessRead|accessWrite {
		// An allowing rule must cover all that is asked, a denying one applies to any of it.
		code = append(code, insn{code: moveReg32, regs: regs(6, 3)})
		if r.Allow {
			code = append(code, insn{code: andImm32, regs: regs(6, 0), imm: ^access}, insn{code: jumpNe32, regs: regs(6, 0)})
		} else {
			code = append(code, insn{code: andImm32, regs: regs(6, 0), imm: access}, insn{code: jumpEq32, regs: regs(6, 0)})
		}
	}
	if r.Major != nil && *r.Major >= 0 {
		code = append(code, insn{code: jumpNe32, regs: regs(4, 0), imm: int32(*r.Major)})
	}
	if r.Minor != nil && *r.Minor >= 0 {
		code = append(code, insn{code: jumpNe32, regs: regs(5, 0), imm: int32(*r.Minor)})
	}
	code = append(code, verdict(r)...)
	for i := range code {
		if code[i].code == jumpNe32 || code[i].code == jumpEq32 {
			code[i].off = int16(len(code) - i - 1)
		}
	}
	return code
}
