package oci

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// mark says that the steps from here on come from a field of the configuration.
type mark struct {
	step  int
	field string // "": the steps' names tell
}

func (b *builder) at(field string) { b.marks = append(b.marks, mark{len(b.plan.Steps), field}) }

// blame names the field that a failed step comes from, or a limit that another step has met.
func (b *builder) blame(err error) error {
	var failed *spawn.StepError
	if !errors.As(err, &failed) {
		return err
	}
	field := ""
	for _, m := range b.marks {
		if m.step <= failed.Index {
			field = m.field
		}
	}
	switch {
	case errors.Is(err, unix.EMFILE) && len(b.spec.Process.Rlimits) > 0:
		field = "process.rlimits: RLIMIT_NOFILE is too low"
	case errors.Is(err, unix.ENOSPC) && strings.HasPrefix(failed.Name, "join cgroup"):
		field = "linux.resources.cpu.cpus and linux.resources.cpu.mems leave nothing"
	}
	if field == "" {
		return err
	}
	return fmt.Errorf("config.json: %s: %w", field, err)
}

// blameMemory says so if the memory limit has killed the first process.
func blameMemory(group *cgroup.Group, err error) error {
	if group == nil {
		return err
	}
	if kills, readErr := group.OOMKills(); readErr == nil && kills > 0 {
		return fmt.Errorf("config.json: linux.resources.memory.limit is too low, the process was killed: %w", err)
	}
	return err
}

// blameNUL names the field if an error comes from a NUL byte in a string, which no system call takes. It is looked for
// when something has failed, not before: a walk over the whole configuration is for nobody to wait for.
func blameNUL(spec *specs.Spec, err error) error {
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if path := nulField(reflect.ValueOf(spec), ""); path != "" {
		return fmt.Errorf("config.json: %s contains a NUL byte: %w", path, err)
	}
	return err
}

// nulField is the path of the first string with a NUL byte, "" if there is none.
func nulField(v reflect.Value, path string) string {
	switch v.Kind() {
	case reflect.String:
		if strings.IndexByte(v.String(), 0) >= 0 {
			return path
		}
	case reflect.Pointer:
		return nulField(v.Elem(), path)
	case reflect.Slice:
		for i := range v.Len() {
			if found := nulField(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); found != "" {
				return found
			}
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			name := fmt.Sprintf("%s[%q]", path, key.String())
			if nulField(key, name) != "" || nulField(v.MapIndex(key), name) != "" {
				return name
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if found := nulField(v.Field(i), strings.Trim(path+"."+name, ".")); found != "" {
				return found
			}
		}
	}
	return ""
}
