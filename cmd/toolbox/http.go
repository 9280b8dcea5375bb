//go:build !toolbox_core

package main

import (
	"bufio"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gantry/internal/tarfs"
)

// HTTP is spoken here in version 1.0 (RFC 1945), one request a connection: net/http would cost every applet, also
// those without a network, a third of its time to start.

const maxRedirects = 10

func wget(args []string) error {
	for i, arg := range args {
		args[i] = map[string]string{"--quiet": "-q", "--spider": "-s", "--no-check-certificate": "-q"}[arg]
		if args[i] == "" {
			args[i] = arg
		}
	}
	opts, rest, err := getopt(args, "O:qT:st:S")
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usage("wget [-q] [-s] [-T SECONDS] [-O FILE] URL")
	}
	timeout := 60 * time.Second
	if opts.has('T') {
		seconds, err := strconv.Atoi(opts['T'])
		if err != nil || seconds < 1 {
			return fmt.Errorf("invalid number of seconds %q", opts['T'])
		}
		timeout = time.Duration(seconds) * time.Second
	}
	address := rest[0]
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	for range maxRedirects {
		next, err := fetch(u, opts, timeout)
		if err != nil || next == nil {
			return err
		}
		u = next
	}
	return fmt.Errorf("%s: more than %d redirections", rest[0], maxRedirects)
}

// fetch makes one request. If the answer is to look elsewhere, it returns where.
func fetch(u *url.URL, opts options, timeout time.Duration) (*url.URL, error) {
	if u.Scheme != "http" {
		return nil, fmt.Errorf("%s: only http is supported", u)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), timeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	method := "GET"
	if opts.has('s') {
		method = "HEAD"
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: toolbox\r\nAccept: */*\r\n\r\n", method, u.RequestURI(), u.Host); err != nil {
		return nil, err
	}
	in := textproto.NewReader(bufio.NewReader(conn))
	first, err := in.ReadLine()
	if err != nil {
		return nil, fmt.Errorf("%s: read the answer: %w", u, err)
	}
	version, answer, _ := strings.Cut(first, " ")
	if !strings.HasPrefix(version, "HTTP/") {
		return nil, fmt.Errorf("%s: not an HTTP server", u)
	}
	header, err := in.ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: read the header: %w", u, err)
	}
	switch {
	case strings.HasPrefix(answer, "3") && header.Get("Location") != "":
		return u.Parse(header.Get("Location"))
	case !strings.HasPrefix(answer, "2"):
		return nil, fmt.Errorf("%s: server answers %s", u, answer)
	case opts.has('s'):
		return nil, nil
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return nil, save(u, in.R, header.Get("Content-Length"), opts)
}

func save(u *url.URL, body io.Reader, length string, opts options) error {
	name, out := opts['O'], os.Stdout
	if !opts.has('O') {
		if name = path.Base(u.Path); name == "/" || name == "." {
			name = "index.html"
		}
	}
	if name != "-" {
		file, err := os.Create(name)
		if err != nil {
			return err
		}
		out = file
	}
	n, err := io.Copy(out, body)
	if name != "-" {
		err = errors.Join(err, out.Close())
		if !opts.has('q') {
			fmt.Fprintf(os.Stderr, "%s: %d bytes\n", name, n)
		}
	}
	if want, perr := strconv.ParseInt(length, 10, 64); err == nil && perr == nil && want != n {
		err = fmt.Errorf("%s: %d bytes of %d: %w", u, n, want, io.ErrUnexpectedEOF)
	}
	return err
}

// httpd serves a directory's files; links that lead out of it are not followed.
func httpd(args []string) error {
	opts, rest, err := getopt(args, "p:h:fv")
	if err != nil {
		return err
	}
	address, dir := "80", "."
	if opts.has('p') {
		address = opts['p']
	}
	if opts.has('h') {
		dir = opts['h']
	}
	if len(rest) > 0 {
		dir = rest[0]
	}
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err == nil {
				serve(conn, root, opts.has('v'))
			}
		}()
	}
}

// serve answers one request. Errors of the connection have nobody to be told to.
func serve(conn net.Conn, root *os.Root, verbose bool) {
	in := textproto.NewReader(bufio.NewReader(io.LimitReader(conn, 64<<10)))
	line, err := in.ReadLine()
	if err != nil {
		return
	}
	if _, err := in.ReadMIMEHeader(); err != nil && !errors.Is(err, io.EOF) {
		return
	}
	if verbose {
		fmt.Fprintf(os.Stderr, "%s %s\n", conn.RemoteAddr(), line)
	}
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "GET" && words[0] != "HEAD" {
		reply(conn, "501 Not Implemented", "text/plain", 16, strings.NewReader("not implemented\n"))
		return
	}
	u, err := url.ParseRequestURI(words[1])
	if err != nil {
		reply(conn, "400 Bad Request", "text/plain", 12, strings.NewReader("bad request\n"))
		return
	}
	name := strings.TrimPrefix(path.Clean("/"+u.Path), "/")
	if name == "" {
		name = "."
	}
	body, kind, size, err := open(root, name)
	if err != nil {
		reply(conn, "404 Not Found", "text/plain", 10, strings.NewReader("not found\n"))
		return
	}
	if words[0] == "HEAD" {
		body = io.NopCloser(strings.NewReader(""))
	}
	reply(conn, "200 OK", kind, size, body)
	_ = body.Close()
}

func reply(conn net.Conn, status, kind string, size int64, body io.Reader) {
	_, err := fmt.Fprintf(conn, "HTTP/1.0 %s\r\nServer: toolbox\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", status, kind, size)
	if err == nil {
		_, _ = io.Copy(conn, body)
	}
}

// open returns a file, a directory's index.html, or a list of what a directory has.
func open(root *os.Root, name string) (body io.ReadCloser, kind string, size int64, err error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, "", 0, err
	}
	if info.IsDir() {
		if index := path.Join(name, "index.html"); exists(root, index) {
			return open(root, index)
		}
		text, err := listing(root, name)
		return io.NopCloser(strings.NewReader(text)), "text/html", int64(len(text)), err
	}
	if !info.Mode().IsRegular() {
		return nil, "", 0, errors.New("not a regular file")
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, "", 0, err
	}
	content, size, err := tarfs.Content(file, info.Size())
	if err != nil {
		return nil, "", 0, errors.Join(err, file.Close())
	}
	kinds := map[string]string{
		".html": "text/html", ".txt": "text/plain", ".css": "text/css", ".js": "text/javascript", ".json": "application/json",
		".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml",
	}
	if kind = kinds[filepath.Ext(name)]; kind == "" {
		kind = "application/octet-stream"
	}
	return struct {
		io.Reader
		io.Closer
	}{content, file}, kind, size, nil
}

func exists(root *os.Root, name string) bool {
	_, err := root.Stat(name)
	return err == nil
}

func listing(root *os.Root, name string) (string, error) {
	dir, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = dir.Close() }()
	found, err := dir.ReadDir(-1)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, f := range found {
		link := f.Name()
		if f.IsDir() {
			link += "/"
		}
		fmt.Fprintf(&b, "<a href=\"%s\">%s</a><br>\n", (&url.URL{Path: "./" + link}).String(), html.EscapeString(link))
	}
	return b.String(), nil
}
