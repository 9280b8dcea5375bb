package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/engine"
)

// The places of the engine that is used unless another is named.
const (
	defaultRoot = "/var/lib/gantry"
	defaultRun  = "/run/gantry"
)

// config is the configuration file, with the names that docker's daemon.json has where both know a thing. Flags win.
type config struct {
	Root         string       `json:"data-root"`
	Run          string       `json:"exec-root"`
	Hosts        []string     `json:"hosts"`
	Bridge       string       `json:"bridge"`
	Table        string       `json:"nftables-table"`
	Subnet       netip.Prefix `json:"subnet,omitzero"`
	CgroupParent string       `json:"cgroup-parent"`
	Mirrors      []string     `json:"registry-mirrors"` // of docker.io
	Insecure     []string     `json:"insecure-registries"`
	Pool         *int         `json:"network-pool"` // network sandboxes kept ready
	Shim         string       `json:"shim"`
	Init         string       `json:"init-path"`
	Group        string       `json:"group"` // of unix sockets
	Debug        bool         `json:"debug"`

	LogOptions map[string]string `json:"log-opts"` // of containers that do not set them

	teardown bool // take away what the engine left on the host, and end
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// errUsage: the arguments are wrong and the reason has been printed.
var errUsage = errors.New("usage")

// parseConfig reads arguments and the file that they name.
func parseConfig(args []string, out io.Writer) (*config, error) {
	flags := flag.NewFlagSet("gantryd", flag.ContinueOnError)
	flags.SetOutput(out)
	var c, f config
	var hosts list
	file := flags.String("config", "", "configuration `FILE` (JSON)")
	flags.StringVar(&f.Root, "root", "", "`DIR` for images, containers and volumes (default "+defaultRoot+")")
	flags.StringVar(&f.Run, "run", "", "`DIR` for sockets and what does not outlive a reboot (default "+defaultRun+")")
	flags.Var(&hosts, "host", "`ADDRESS` to listen on: unix:///path or tcp://ip:port; may be repeated (default unix://RUN/gantry.sock)")
	flags.StringVar(&f.Bridge, "bridge", "", "`NAME` of the bridge (default gantry0, or one made from the root's path)")
	flags.Func("subnet", "`PREFIX` of the bridge (default: a free one)", func(s string) (err error) { f.Subnet, err = netip.ParsePrefix(s); return err })
	flags.StringVar(&f.CgroupParent, "cgroup-parent", "", "`PATH` of the cgroup above all containers")
	flags.StringVar(&f.Init, "init-path", "", "`PATH` of gantry-init, for containers with --init (default: beside this program)")
	flags.StringVar(&f.Shim, "shim", "", "`PATH` of containerd-shim-gantry-v1 (default: beside this program)")
	flags.StringVar(&f.Group, "group", "", "`GROUP` that may use unix sockets")
	flags.Func("log-opt", "`NAME=VALUE` of the log of containers that do not set it; may be repeated (default max-size=20m, max-file=5)", func(s string) error {
		name, value, found := strings.Cut(s, "=")
		if !found {
			return errors.New("want NAME=VALUE")
		}
		if f.LogOptions == nil {
			f.LogOptions = map[string]string{}
		}
		f.LogOptions[name] = value
		return nil
	})
	flags.BoolVar(&f.teardown, "teardown", false, "take away the bridge, nftables table and cgroup of a stopped engine, and end")
	flags.BoolVar(&f.Debug, "debug", false, "log more")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(out, "gantryd: unexpected argument %q\n", flags.Arg(0))
		return nil, errUsage
	}
	if *file != "" {
		if err := readConfig(*file, &c); err != nil {
			return nil, err
		}
	}
	c.override(f, hosts)
	return &c, c.complete()
}

func readConfig(path string, c *config) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(c); err != nil {
		return fmt.Errorf("read configuration %s: %w", path, err)
	}
	return nil
}

// override puts the flags that were given over the file.
func (c *config) override(f config, hosts []string) {
	for _, p := range []struct{ field, value *string }{
		{&c.Root, &f.Root},
		{&c.Run, &f.Run},
		{&c.Bridge, &f.Bridge},
		{&c.CgroupParent, &f.CgroupParent},
		{&c.Shim, &f.Shim},
		{&c.Init, &f.Init},
		{&c.Group, &f.Group},
	} {
		if *p.value != "" {
			*p.field = *p.value
		}
	}
	if f.Subnet.IsValid() {
		c.Subnet = f.Subnet
	}
	if len(hosts) > 0 {
		c.Hosts = hosts
	}
	if len(f.LogOptions) > 0 {
		c.LogOptions = f.LogOptions
	}
	c.Debug = c.Debug || f.Debug
	c.teardown = f.teardown
}

// complete fills what nobody said. An engine of another root than the default has names of its own, made from the
// root's path, so that several live on one machine without touching each other.
func (c *config) complete() error {
	own := c.Root != "" && filepath.Clean(c.Root) != defaultRoot
	for _, p := range []struct {
		field *string
		value string
	}{{&c.Root, defaultRoot}, {&c.Run, defaultRun}} {
		if *p.field == "" {
			*p.field = p.value
		}
		abs, err := filepath.Abs(*p.field)
		if err != nil {
			return err
		}
		*p.field = abs
	}
	suffix := ""
	if own {
		sum := sha256.Sum256([]byte(c.Root))
		suffix = hex.EncodeToString(sum[:4])
	}
	for _, p := range []struct {
		field      *string
		usual, own string
	}{
		{&c.Bridge, "gantry0", "gt" + suffix},
		{&c.Table, "gantry", "gantry_" + suffix},
		{&c.CgroupParent, "/gantry", "/gantry-" + suffix},
	} {
		switch {
		case *p.field != "":
		case own:
			*p.field = p.own
		default:
			*p.field = p.usual
		}
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"unix://" + filepath.Join(c.Run, "gantry.sock")}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if c.Shim == "" {
		c.Shim = filepath.Join(filepath.Dir(self), "containerd-shim-gantry-v1")
	}
	if c.Init == "" {
		c.Init = filepath.Join(filepath.Dir(self), "gantry-init")
	}
	if err := engine.CheckLogOptions(c.LogOptions); err != nil {
		return err
	}
	if len(c.Bridge) > 15 {
		return fmt.Errorf("bridge name %q is longer than 15 characters", c.Bridge)
	}
	return nil
}

// defaultPool is how many network sandboxes are kept ready.
const defaultPool = 16

func (c *config) engineOptions() engine.Options {
	o := engine.Options{
		Root: c.Root, Run: c.Run, Shim: c.Shim, Init: c.Init, Bridge: c.Bridge, Table: c.Table, Subnet: c.Subnet, Pool: defaultPool,
		CgroupParent: c.CgroupParent, Insecure: c.Insecure, Mirrors: map[string][]string{}, LogOptions: c.LogOptions,
	}
	if c.Pool != nil {
		o.Pool = *c.Pool
	}
	if len(c.Mirrors) > 0 {
		o.Mirrors["docker.io"] = c.Mirrors
	}
	return o
}
