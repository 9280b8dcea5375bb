package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"
)

// parseVolumes splits -v: a path alone is an anonymous volume, anything with a source is a bind.
func parseVolumes(list []string) (anonymous map[string]struct{}, binds []string, err error) {
	anonymous = map[string]struct{}{}
	for _, spec := range list {
		source, rest, isBind := strings.Cut(spec, ":")
		switch {
		case spec == "":
			return nil, nil, errors.New("invalid empty volume specification")
		case !isBind:
			anonymous[spec] = struct{}{}
			continue
		case source == "" || rest == "":
			return nil, nil, fmt.Errorf("invalid volume specification: %q", spec)
		}
		if source, err = absoluteSource(source); err != nil {
			return nil, nil, fmt.Errorf("volume %q: %w", spec, err)
		}
		binds = append(binds, source+":"+rest)
	}
	return anonymous, binds, nil
}

// absoluteSource resolves ., .., ./x and ../x against the working directory; names of volumes stay.
func absoluteSource(source string) (string, error) {
	first, _, _ := strings.Cut(source, "/")
	if first != "." && first != ".." {
		return source, nil
	}
	return filepath.Abs(source)
}

// parseTmpfs reads PATH[:OPTIONS].
func parseTmpfs(list []string) map[string]string {
	m := make(map[string]string, len(list))
	for _, spec := range list {
		path, options, _ := strings.Cut(spec, ":")
		m[path] = options
	}
	return m
}

func parseMounts(list []string) ([]mount.Mount, error) {
	var out []mount.Mount
	for _, spec := range list {
		m, err := parseMount(spec)
		if err != nil {
			return nil, fmt.Errorf("invalid argument %q for --mount: %w", spec, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// mountSpec collects the fields of one --mount; the options of a type are made when first named.
type mountSpec struct {
	mount.Mount
}

func (m *mountSpec) bind() *mount.BindOptions {
	if m.BindOptions == nil {
		m.BindOptions = &mount.BindOptions{}
	}
	return m.BindOptions
}

func (m *mountSpec) volume() *mount.VolumeOptions {
	if m.VolumeOptions == nil {
		m.VolumeOptions = &mount.VolumeOptions{Labels: map[string]string{}}
	}
	return m.VolumeOptions
}

func (m *mountSpec) driver() *mount.Driver {
	v := m.volume()
	if v.DriverConfig == nil {
		v.DriverConfig = &mount.Driver{Options: map[string]string{}}
	}
	return v.DriverConfig
}

func (m *mountSpec) tmpfs() *mount.TmpfsOptions {
	if m.TmpfsOptions == nil {
		m.TmpfsOptions = &mount.TmpfsOptions{}
	}
	return m.TmpfsOptions
}

// parseMount reads the comma-separated fields of --mount (CSV: a field with a comma is quoted).
func parseMount(spec string) (mount.Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(spec)).Read()
	if err != nil {
		return mount.Mount{}, err
	}
	m := mountSpec{Mount: mount.Mount{Type: mount.TypeVolume}}
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		key = strings.ToLower(key)
		if !hasValue {
			switch key {
			case "readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src":
				value = "true"
			default:
				return m.Mount, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
			}
		}
		if err := m.field(key, value); err != nil {
			return m.Mount, err
		}
	}
	return m.Mount, m.validate()
}

func (m *mountSpec) field(key, value string) (err error) {
	switch key {
	case "type":
		m.Type = mount.Type(strings.ToLower(value))
	case "source", "src":
		m.Source, err = absoluteSource(value)
	case "target", "dst", "destination":
		m.Target = value
	case "readonly", "ro":
		m.ReadOnly, err = parseBool(key, value)
	case "consistency":
		m.Consistency = mount.Consistency(strings.ToLower(value))
	case "image-subpath":
		m.ImageOptions = &mount.ImageOptions{Subpath: value}
	case "tmpfs-size":
		m.tmpfs().SizeBytes, err = units.RAMInBytes(value)
	case "tmpfs-mode":
		var mode uint64
		mode, err = strconv.ParseUint(value, 8, 32)
		m.tmpfs().Mode = os.FileMode(mode)
	default:
		if strings.HasPrefix(key, "bind-") {
			return m.bindField(key, value)
		}
		return m.volumeField(key, value)
	}
	if err != nil {
		return fmt.Errorf("invalid value for %s: %s: %w", key, value, err)
	}
	return nil
}

func (m *mountSpec) bindField(key, value string) (err error) {
	switch key {
	case "bind-propagation":
		m.bind().Propagation = mount.Propagation(strings.ToLower(value))
	case "bind-nonrecursive":
		m.bind().NonRecursive, err = parseBool(key, value)
	case "bind-create-src":
		m.bind().CreateMountpoint, err = parseBool(key, value)
	case "bind-recursive":
		switch value {
		case "enabled":
		case "disabled":
			m.bind().NonRecursive = true
		case "writable":
			m.bind().ReadOnlyNonRecursive = true
		case "readonly":
			m.bind().ReadOnlyForceRecursive = true
		default:
			return fmt.Errorf(`invalid value for %s: %s (must be "enabled", "disabled", "writable", or "readonly")`, key, value)
		}
	default:
		return fmt.Errorf("unknown option '%s'", key)
	}
	return err
}

func (m *mountSpec) volumeField(key, value string) (err error) {
	switch key {
	case "volume-subpath":
		m.volume().Subpath = value
	case "volume-nocopy":
		m.volume().NoCopy, err = parseBool(key, value)
	case "volume-label":
		label, text, _ := strings.Cut(value, "=")
		m.volume().Labels[label] = text
	case "volume-driver":
		m.driver().Name = value
	case "volume-opt":
		option, text, _ := strings.Cut(value, "=")
		m.driver().Options[option] = text
	default:
		return fmt.Errorf("unknown option '%s'", key)
	}
	return err
}

func (m *mountSpec) validate() error {
	if m.Target == "" {
		return errors.New("target is required")
	}
	for _, foreign := range []struct {
		set  bool
		kind mount.Type
	}{
		{m.BindOptions != nil, mount.TypeBind},
		{m.VolumeOptions != nil, mount.TypeVolume},
		{m.ImageOptions != nil, mount.TypeImage},
		{m.TmpfsOptions != nil, mount.TypeTmpfs},
	} {
		if foreign.set && m.Type != foreign.kind {
			return fmt.Errorf("cannot mix '%s-*' options with mount type '%s'", foreign.kind, m.Type)
		}
	}
	if b := m.BindOptions; b != nil {
		if (b.ReadOnlyNonRecursive || b.ReadOnlyForceRecursive) && !m.ReadOnly {
			return errors.New("option 'bind-recursive=writable' or 'readonly' requires 'readonly'")
		}
		if b.ReadOnlyForceRecursive && b.Propagation != mount.PropagationRPrivate {
			return errors.New("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate'")
		}
	}
	return nil
}

func parseBool(key, value string) (bool, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("invalid value for %s: %s", key, value)
	}
	return b, nil
}
