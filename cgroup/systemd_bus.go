package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// dial connects to the scope's manager. The last socket is systemd's own, without a bus in between.
func (s Scope) dial(ctx context.Context) (*dbusConn, error) {
	sockets := []string{"/run/dbus/system_bus_socket", "/run/systemd/private"}
	if s.User {
		bus, dir := os.Getenv("DBUS_SESSION_BUS_ADDRESS"), os.Getenv("XDG_RUNTIME_DIR")
		if bus == "" && dir == "" {
			return nil, errors.New("connect to the user's systemd: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
		}
		sockets = nil
		if path := busPath(bus); path != "" {
			sockets = append(sockets, path)
		}
		sockets = append(sockets, filepath.Join(dir, "bus"), filepath.Join(dir, "systemd/private"))
	}
	c, err := dialDBus(ctx, sockets)
	if err != nil {
		return nil, fmt.Errorf("systemd does not answer: %w", err)
	}
	return c, nil
}

// busPath is the socket of an address "unix:path=/run/user/1000/bus,guid=…"; see the D-Bus specification, "Server
// Addresses". Others ("unix:abstract=") are "".
func busPath(address string) string {
	for one := range strings.SplitSeq(address, ";") {
		options, isUnix := strings.CutPrefix(one, "unix:")
		if !isUnix {
			continue
		}
		for option := range strings.SplitSeq(options, ",") {
			text, isPath := strings.CutPrefix(option, "path=")
			if path, err := unescape(text); isPath && err == nil && path != "" {
				return path
			}
		}
	}
	return ""
}

// unescape reads %XX in an address of D-Bus; see its specification, "Server Addresses".
func unescape(text string) (string, error) {
	first, escaped, found := strings.Cut(text, "%")
	if !found {
		return text, nil
	}
	plain := []byte(first)
	for part := range strings.SplitSeq(escaped, "%") {
		if len(part) < 2 {
			return "", fmt.Errorf("%q: %% without two digits", text)
		}
		b, err := strconv.ParseUint(part[:2], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%q: %%%s: %w", text, part[:2], err)
		}
		plain = append(append(plain, byte(b)), part[2:]...)
	}
	return string(plain), nil
}

// version is systemd's: what it does not know yet it is not told. 0 if it does not say.
func (c *dbusConn) version() int {
	var b dbusBody
	b.string(managerName)
	b.string("Version")
	reply, err := c.call(systemdName, systemdPath, "org.freedesktop.DBus.Properties", "Get", "ss", b)
	if err != nil {
		return 0
	}
	kind, next, ok := dbusSignature(reply.body, 0)
	if !ok || kind != "s" {
		return 0
	}
	text, _, _ := dbusString(reply.body, next)
	text = strings.TrimLeft(text, "v")
	if end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		text = text[:end]
	}
	n, _ := strconv.Atoi(text) // 0 if it is no number
	return n
}

// job calls a method that answers with a job, and returns when the job is done.
func (c *dbusConn) job(method, signature string, b dbusBody) error {
	reply, err := c.call(systemdName, systemdPath, managerName, method, signature, b)
	if err != nil {
		return err
	}
	job, _, ok := dbusString(reply.body, 0)
	if !ok {
		return fmt.Errorf("%s: %w", method, errDBus)
	}
	for {
		m, err := c.signal()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", job, err)
		}
		if m.member != "JobRemoved" || m.signature != "uoss" {
			continue
		}
		path, next, ok := dbusString(m.body, 4)
		if !ok || path != job {
			continue
		}
		_, next, ok = dbusString(m.body, next)
		result, _, okToo := dbusString(m.body, next)
		if !ok || !okToo {
			return fmt.Errorf("wait for %s: %w", job, errDBus)
		}
		if result != "done" {
			return fmt.Errorf("%s: the job's result is %q", method, result)
		}
		return nil
	}
}
