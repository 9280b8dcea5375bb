package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// listen opens every address. A socket that a killed engine left behind is replaced: the lock says that nobody uses it.
func listen(c *config) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, host := range c.Hosts {
		l, err := listenOn(host, c.Group)
		if err != nil {
			for _, open := range listeners {
				_ = open.Close()
			}
			return nil, fmt.Errorf("listen on %s: %w", host, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func listenOn(host, group string) (net.Listener, error) {
	scheme, address, _ := strings.Cut(host, "://")
	switch {
	case scheme == "tcp" && address != "":
		return net.Listen("tcp", address)
	case scheme == "unix" && filepath.IsAbs(address):
		return listenUnix(address, group)
	}
	return nil, errors.New("want unix:///path or tcp://ip:port")
}

func listenUnix(path, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, errors.New("there is a file of that name, and it is no socket")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := permit(path, group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// permit opens a socket to root and one group. Whoever may use it is root on this machine.
func permit(path, group string) error {
	if group == "" {
		return os.Chmod(path, 0o600)
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	if err := os.Chown(path, 0, gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// farewell is how long requests under way may go on after the engine was told to end.
const farewell = 2 * time.Second

// serve answers requests until ctx ends or a listener fails.
func serve(ctx context.Context, listeners []net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 20}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- server.Serve(l) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if server.Shutdown(limited) != nil {
		_ = server.Close() // what still runs is cut
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
