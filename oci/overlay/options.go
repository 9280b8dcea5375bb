package overlay

import (
	"fmt"
	"strings"
)

// Config describes an overlay to be mounted. Paths are literal: nothing in them is escaped.
type Config struct {
	Lower       []string // the layers, topmost first
	Data        []string // layers below those whose files are reached by redirects only
	Upper, Work string   // empty: the overlay is read-only
	Options     []string // any others, as KEY=VALUE or KEY ("volatile", "index=on")
	Attributes  int      // MOUNT_ATTR_… of the mount
}

// Parse reads mount options as config.json, containerd and mount(8) write them: one string for all layers, with colons
// between them. A backslash makes the character after it literal. "ro" and "rw" are not the overlay's and are skipped.
func Parse(options []string) (Config, error) {
	var c Config
	for _, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		var err error
		switch {
		case option == "ro" || option == "rw":
		case hasValue && key == "lowerdir":
			err = c.parseLayers(value)
		case hasValue && key == "upperdir":
			c.Upper, err = literal(value)
		case hasValue && key == "workdir":
			c.Work, err = literal(value)
		case hasValue && key == "lowerdir+":
			c.Lower = append(c.Lower, value)
		case hasValue && key == "datadir+":
			c.Data = append(c.Data, value)
		default:
			c.Options = append(c.Options, option)
		}
		if err != nil {
			return Config{}, fmt.Errorf("overlay option %s: %w", key, err)
		}
	}
	return c, nil
}

// parseLayers splits at colons; those after two colons in a row are data layers.
func (c *Config) parseLayers(value string) error {
	var layer strings.Builder
	list := &c.Lower
	*list = nil
	add := func() error {
		if layer.Len() == 0 {
			return fmt.Errorf("an empty path among the layers %q", value)
		}
		*list = append(*list, layer.String())
		layer.Reset()
		return nil
	}
	for i := 0; i < len(value); i++ {
		switch {
		case value[i] == '\\' && i+1 < len(value):
			i++
			layer.WriteByte(value[i])
		case strings.HasPrefix(value[i:], "::"):
			i++
			if err := add(); err != nil {
				return err
			}
			list = &c.Data
		case value[i] == ':':
			if err := add(); err != nil {
				return err
			}
		default:
			layer.WriteByte(value[i])
		}
	}
	return add()
}

func literal(value string) (string, error) {
	if value == "" {
		return "", fmt.Errorf("an empty path")
	}
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] == '\\' && i+1 < len(value) {
			i++
		}
		b.WriteByte(value[i])
	}
	return b.String(), nil
}

// escape marks what would end a path or an option.
var escape = strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)

// MountOptions returns the options that Parse reads. Programs that pass them to mount(2) joined by commas, as other runtimes
// do, mount the same overlay.
func (c Config) MountOptions() []string {
	var layers strings.Builder
	for i, list := range [][]string{c.Lower, c.Data} {
		for n, layer := range list {
			switch {
			case i == 1: // each data layer has two colons before it
				layers.WriteString("::")
			case n > 0:
				layers.WriteByte(':')
			}
			layers.WriteString(escape.Replace(layer))
		}
	}
	options := []string{"lowerdir=" + layers.String()}
	if c.Upper != "" {
		options = append(options, "upperdir="+escape.Replace(c.Upper))
	}
	if c.Work != "" {
		options = append(options, "workdir="+escape.Replace(c.Work))
	}
	return append(options, c.Options...)
}
