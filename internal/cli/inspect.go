package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

// inspected is an object's description: as the API's type, and as the server sent it.
type inspected struct {
	typed any
	raw   json.RawMessage
}

// inspector asks for one kind of object.
type inspector struct {
	kind string
	ask  func(ctx context.Context, api *client.Client, name string, size bool) (inspected, error)
}

// inspectors are in the order in which a name without --type is looked up.
func inspectors() []inspector {
	return []inspector{
		{"container", func(ctx context.Context, api *client.Client, name string, size bool) (inspected, error) {
			typed, raw, err := api.ContainerInspect(ctx, name, size)
			return inspected{typed, raw}, err
		}},
		{"image", func(ctx context.Context, api *client.Client, name string, _ bool) (inspected, error) {
			typed, raw, err := api.ImageInspect(ctx, name)
			return inspected{typed, raw}, err
		}},
		{"network", func(ctx context.Context, api *client.Client, name string, _ bool) (inspected, error) {
			typed, raw, err := api.NetworkInspect(ctx, name)
			return inspected{typed, raw}, err
		}},
		{"volume", func(ctx context.Context, api *client.Client, name string, _ bool) (inspected, error) {
			typed, raw, err := api.VolumeInspect(ctx, name)
			return inspected{typed, raw}, err
		}},
	}
}

type inspectOptions struct {
	format, kind string
	size         bool
}

func newInspect(a *app) *cobra.Command {
	var o inspectOptions
	cmd := inspectCommand(a, "NAME|ID", "Return low-level information on objects", &o)
	cmd.Flags().BoolVarP(&o.size, "size", "s", false, "Display total file sizes if the type is container")
	cmd.Flags().StringVar(&o.kind, "type", "", "Only inspect objects of the given type")
	return cmd
}

// newInspectOf makes inspect of a management group: only objects of that kind.
func newInspectOf(kind string) func(*app) *cobra.Command {
	return func(a *app) *cobra.Command {
		o := inspectOptions{kind: kind}
		cmd := inspectCommand(a, strings.ToUpper(kind), "Display detailed information on one or more "+kind+"s", &o)
		if kind == "container" {
			cmd.Flags().BoolVarP(&o.size, "size", "s", false, "Display total file sizes")
		}
		return cmd
	}
}

func inspectCommand(a *app, noun, short string, o *inspectOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] " + noun + " [" + noun + "...]", Short: short, Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.inspect(cmd.Context(), args, *o) },
	}
	cmd.Flags().StringVarP(&o.format, "format", "f", "", "Format output: 'json' or a Go template")
	return cmd
}

func (a *app) inspect(ctx context.Context, names []string, o inspectOptions) error {
	kinds := inspectors()
	if o.kind != "" {
		var only []inspector
		for _, k := range kinds {
			if k.kind == o.kind {
				only = append(only, k)
			}
		}
		if kinds = only; only == nil {
			return fmt.Errorf("%q is not a valid value for --type: want container, image, network or volume", o.kind)
		}
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	var found []inspected
	var failures []error
	for _, name := range names {
		object, err := inspectOne(ctx, api, kinds, name, o.size)
		if tooNew(err) {
			return err // before anything is printed: this will be run again
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		found = append(found, object)
	}
	return errors.Join(append([]error{a.showInspected(found, o.format)}, failures...)...)
}

func inspectOne(ctx context.Context, api *client.Client, kinds []inspector, name string, size bool) (inspected, error) {
	var object inspected
	var err error
	for _, kind := range kinds {
		// A kind of object that this engine does not have is as good as one without that name.
		if object, err = kind.ask(ctx, api, name, size); err == nil || !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
			return object, err
		}
	}
	if len(kinds) > 1 {
		err = fmt.Errorf("error: no such object: %s", name)
	}
	return object, err
}

func (a *app) showInspected(found []inspected, format string) error {
	if format == "" || format == "json" {
		return a.showRaw(found, format == "")
	}
	t, err := parseFormat(format)
	if err != nil {
		return err
	}
	for _, object := range found {
		var line bytes.Buffer
		typedErr := t.Execute(&line, object.typed)
		if typedErr != nil { // perhaps a field that only the server knows
			var any any
			dec := json.NewDecoder(bytes.NewReader(object.raw))
			dec.UseNumber()
			if dec.Decode(&any) != nil {
				return fmt.Errorf("format: %w", typedErr)
			}
			line.Reset()
			if t.Execute(&line, any) != nil {
				return fmt.Errorf("format: %w", typedErr)
			}
		}
		a.println(line.String())
	}
	return nil
}

// showRaw prints what the server sent, as one JSON array.
func (a *app) showRaw(found []inspected, indent bool) error {
	raw := make([]json.RawMessage, len(found))
	for i, object := range found {
		raw[i] = object.raw
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "    ")
	}
	if err := enc.Encode(raw); err != nil {
		return fmt.Errorf("print the engine's answer: %w", err)
	}
	_, err := io.WriteString(a.out, a.shown(out.String()))
	return err
}
