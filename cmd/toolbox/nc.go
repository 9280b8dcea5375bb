//go:build !toolbox_core

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// nc [-u] [-w SECONDS] HOST PORT, nc -l [-u] [-k] -p PORT [ADDRESS], nc -z HOST PORT.
func nc(args []string) error {
	opts, rest, err := getopt(args, "lup:w:zknvN")
	if err != nil {
		return err
	}
	timeout := time.Duration(0)
	if opts.has('w') {
		seconds, err := strconv.Atoi(opts['w'])
		if err != nil || seconds < 0 {
			return fmt.Errorf("invalid number of seconds %q", opts['w'])
		}
		timeout = time.Duration(seconds) * time.Second
	}
	network := "tcp"
	if opts.has('u') {
		network = "udp"
	}
	if opts.has('l') {
		port, host := opts['p'], ""
		switch {
		case port == "" && len(rest) == 1:
			port = rest[0]
		case port == "" && len(rest) == 2:
			host, port = rest[0], rest[1]
		case len(rest) == 1:
			host = rest[0]
		}
		if port == "" {
			return usage("nc -l [-u] [-k] -p PORT [ADDRESS]")
		}
		if network == "udp" {
			return listenUDP(net.JoinHostPort(host, port), timeout)
		}
		return listenTCP(net.JoinHostPort(host, port), opts.has('k'))
	}
	if len(rest) != 2 {
		return usage("nc [-u] [-z] [-w SECONDS] HOST PORT")
	}
	conn, err := (&net.Dialer{Timeout: timeout}).Dial(network, net.JoinHostPort(rest[0], rest[1]))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if opts.has('z') {
		return nil
	}
	return exchange(conn, timeout)
}

func listenTCP(address string, again bool) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		err = exchange(conn, 0)
		_ = conn.Close()
		if !again {
			return err
		}
	}
}

// exchange copies both ways until the other side ends, or is silent for longer than quiet (if not 0).
func exchange(conn net.Conn, quiet time.Duration) error {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(conn, os.Stdin)
		if half, ok := conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		if quiet > 0 {
			if err := conn.SetReadDeadline(time.Now().Add(quiet)); err != nil {
				return err
			}
		}
		n, err := conn.Read(buf)
		if _, werr := os.Stdout.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
			select { // what standard input has at hand is still sent
			case <-sent:
			case <-time.After(lastWords):
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lastWords is how long an open standard input is read after the other side has ended.
const lastWords = 300 * time.Millisecond

// listenUDP answers the first peer that sends something with standard input.
func listenUDP(address string, quiet time.Duration) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	buf, answering := make([]byte, 64<<10), false
	for {
		n, peer, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(buf[:n]); err != nil {
			return err
		}
		if quiet > 0 {
			if err := conn.SetReadDeadline(time.Now().Add(quiet)); err != nil {
				return err
			}
		}
		if !answering {
			answering = true
			go answer(conn, peer)
		}
	}
}

func answer(conn net.PacketConn, peer net.Addr) {
	buf := make([]byte, 32<<10)
	for {
		n, err := os.Stdin.Read(buf)
		if n > 0 {
			if _, err := conn.WriteTo(buf[:n], peer); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func nslookup(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return usage("nslookup NAME [SERVER]")
	}
	resolver := &net.Resolver{PreferGo: true}
	if len(args) == 3 {
		server := args[2]
		if !strings.Contains(server, ":") {
			server = net.JoinHostPort(server, "53")
		}
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server)
		}
		fmt.Printf("Server:\t%s\n", server)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if net.ParseIP(args[1]) != nil {
		names, err := resolver.LookupAddr(ctx, args[1])
		if err != nil {
			return err
		}
		for _, name := range names {
			fmt.Printf("%s\tname = %s\n", args[1], name)
		}
		return nil
	}
	addresses, err := resolver.LookupHost(ctx, args[1])
	if err != nil {
		return err
	}
	for _, a := range addresses {
		fmt.Printf("Name:\t%s\nAddress: %s\n", args[1], a)
	}
	return nil
}
