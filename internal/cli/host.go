package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"gantry/internal/version"
)

// address is where the engine listens.
type address struct {
	url       string // unix:///path or tcp://host:port
	isDefault bool   // nobody chose it: an engine may be started there
}

func (ad address) socket() (path string, ok bool) { return strings.CutPrefix(ad.url, "unix://") }

// resolveHost picks the engine's address: the flag, GANTRY_HOST, DOCKER_HOST, else the default socket.
func resolveHost(flag string, getenv func(string) string, uid int) (address, error) {
	for _, chosen := range []string{flag, getenv("GANTRY_HOST"), getenv("DOCKER_HOST")} {
		if chosen != "" {
			return parseHost(chosen)
		}
	}
	dir := "/run"
	if uid != 0 {
		if dir = getenv("XDG_RUNTIME_DIR"); dir == "" {
			dir = fmt.Sprintf("/run/user/%d", uid)
		}
	}
	return address{url: "unix://" + filepath.Join(dir, "gantry/gantry.sock"), isDefault: true}, nil
}

func parseHost(host string) (address, error) {
	scheme, rest, ok := strings.Cut(host, "://")
	switch {
	case !ok && strings.HasPrefix(host, "/"):
		scheme, rest = "unix", host
	case !ok:
		scheme, rest = "tcp", host
	}
	switch scheme {
	case "unix":
		if !filepath.IsAbs(rest) {
			return address{}, fmt.Errorf("host %q: the path of a unix socket must be absolute", host)
		}
	case "tcp", "http", "https":
		scheme = "tcp"
		name, port, err := net.SplitHostPort(strings.TrimSuffix(rest, "/"))
		if err != nil || port == "" {
			return address{}, fmt.Errorf("host %q: want tcp://HOST:PORT", host)
		}
		if name == "" {
			name = "127.0.0.1"
		}
		rest = net.JoinHostPort(name, port)
	default:
		return address{}, fmt.Errorf("host %q: unsupported protocol %q (supported: unix, tcp)", host, scheme)
	}
	return address{url: scheme + "://" + rest}, nil
}

// engine returns the client of the engine, which is started first if it may and must be.
func (a *app) engine(ctx context.Context) (*client.Client, error) {
	if a.api != nil {
		return a.api, nil
	}
	ad, err := resolveHost(a.host, os.Getenv, os.Geteuid())
	if err != nil {
		return nil, err
	}
	opts := []client.Opt{client.WithHost(ad.url), client.WithUserAgent("gantry/" + version.Version)}
	if path, ok := ad.socket(); ok {
		first, err := a.dialOrStart(ctx, ad, path)
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.WithDialContext(reuseFirst(first, path)))
	} else {
		opts = append(opts, client.WithTLSClientConfigFromEnv())
	}
	switch pinned := os.Getenv("DOCKER_API_VERSION"); {
	case pinned != "":
		opts = append(opts, client.WithAPIVersion(pinned))
	case !a.negotiate:
		// Saves the round trip of a negotiation; a server that is older says so, and main asks it then.
		opts = append(opts, client.WithAPIVersion(client.MaxAPIVersion))
	}
	api, err := client.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("set up client of %s: %w", ad.url, err)
	}
	a.api = api
	return api, nil
}

// dialOrStart connects to the engine's socket; on the default socket it starts an engine when none answers.
func (a *app) dialOrStart(ctx context.Context, ad address, path string) (net.Conn, error) {
	conn, err := dialUnix(ctx, path)
	if err == nil {
		return conn, nil
	}
	absent := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
	if !absent || !ad.isDefault {
		return nil, connectError(ad.url, err)
	}
	if err := a.startEngine(ctx, path); err != nil {
		return nil, fmt.Errorf("no engine answers at %s, and none could be started: %w", ad.url, err)
	}
	if conn, err = dialUnix(ctx, path); err != nil {
		return nil, connectError(ad.url, err)
	}
	return conn, nil
}

func connectError(url string, err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return fmt.Errorf("cannot connect to the engine at %s: %w. Is it running?", url, err)
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// reuseFirst dials the socket at path, but hands out first to the first caller.
func reuseFirst(first net.Conn, path string) func(context.Context, string, string) (net.Conn, error) {
	var once sync.Once
	return func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		once.Do(func() { conn = first })
		if conn != nil {
			return conn, nil
		}
		return dialUnix(ctx, path)
	}
}
