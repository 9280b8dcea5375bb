package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/internal/client"
	ours "gantry/internal/version"
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
	dial, err := a.dialer(ctx, ad)
	if err != nil {
		return nil, err
	}
	// Assuming our own version saves the round trip of a negotiation; an engine that is older says so, and main asks it then.
	version := client.MaxAPIVersion
	if a.negotiate {
		version = ""
	}
	if pinned := os.Getenv("DOCKER_API_VERSION"); pinned != "" {
		version = strings.TrimPrefix(pinned, "v")
	}
	a.api = client.New(client.Options{Dial: dial, Version: version, UserAgent: "gantry/" + ours.Version})
	return a.api, nil
}

// dialer makes what connects to the engine. On the default socket, an engine is started first if none answers.
func (a *app) dialer(ctx context.Context, ad address) (func(context.Context) (net.Conn, error), error) {
	if path, ok := ad.socket(); ok {
		first, err := a.dialOrStart(ctx, ad, path)
		if err != nil {
			return nil, err
		}
		return reuseFirst(first, path), nil
	}
	config, err := tlsFromEnv()
	if err != nil {
		return nil, err
	}
	target := strings.TrimPrefix(ad.url, "tcp://")
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", target)
		if err != nil {
			return nil, connectError(ad.url, err)
		}
		if config == nil {
			return conn, nil
		}
		return tls.Client(conn, serverOf(config, target)), nil
	}, nil
}

// tlsFromEnv is docker's: certificates in DOCKER_CERT_PATH, which must match the server's name if DOCKER_TLS_VERIFY is
// set; nil without them.
func tlsFromEnv() (*tls.Config, error) {
	dir := os.Getenv("DOCKER_CERT_PATH")
	if dir == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %s holds no certificate", filepath.Join(dir, "ca.pem"))
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: roots,
		InsecureSkipVerify: os.Getenv("DOCKER_TLS_VERIFY") == "",
	}, nil
}

// serverOf is the configuration for one server.
func serverOf(config *tls.Config, target string) *tls.Config {
	c := config.Clone()
	c.ServerName, _, _ = net.SplitHostPort(target)
	return c
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
func reuseFirst(first net.Conn, path string) func(context.Context) (net.Conn, error) {
	var once sync.Once
	return func(ctx context.Context) (conn net.Conn, err error) {
		once.Do(func() { conn = first })
		if conn != nil {
			return conn, nil
		}
		return dialUnix(ctx, path)
	}
}
