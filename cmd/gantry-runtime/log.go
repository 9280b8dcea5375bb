package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"gantry/internal/printable"
)

// logger writes messages as runc does: one line each, text or JSON, to a file or to standard error. docker, containerd
// and podman read the reason of a failure from there.
type logger struct {
	file, format string
	debug        bool
	out          io.Writer
}

// open opens the file, and takes over what packages below log.
func (l *logger) open() error {
	if l.format != "text" && l.format != "json" && l.format != "" {
		return fmt.Errorf("invalid log-format: %s", l.format)
	}
	if l.file != "" {
		f, err := os.OpenFile(l.file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
		l.out = f
	}
	slog.SetDefault(slog.New(&handler{logger: l}))
	return nil
}

// fatal logs the error that ends the program, and shows it if it went to a file.
func (l *logger) fatal(err error) {
	l.print("error", err.Error(), "")
	if l.out != nil {
		show(err)
	}
}

// show prints an error. It may have names of the bundle's, which must not drive a terminal.
func show(err error) { fmt.Fprintln(os.Stderr, printable.Text(err.Error())) }

// plain shows an error as it is, and logs it if there is a file.
func (l *logger) plain(err error) {
	if l.out != nil {
		l.print("error", err.Error(), "")
	}
	show(err)
}

// print writes a line. Attributes, if any, are " key=value" each.
func (l *logger) print(level, message, attributes string) {
	out, now := l.out, time.Now().Format(time.RFC3339)
	if out == nil {
		out = os.Stderr
	}
	line := fmt.Sprintf("time=%q level=%s msg=%s%s\n", now, level, quoted(message), attributes)
	if l.format == "json" {
		text, err := json.Marshal(map[string]string{"level": level, "msg": message + attributes, "time": now})
		if err != nil {
			return // strings are always possible
		}
		line = string(text) + "\n"
	}
	_, _ = io.WriteString(out, line) // there is nowhere else to say that the log cannot be written
}

// quoted quotes what is more than a word.
func quoted(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return fmt.Sprintf("%q", s)
}

// handler passes on what packages log.
type handler struct {
	*logger
	attributes string
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return h.debug || level >= slog.LevelInfo
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	level := map[slog.Level]string{slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warning", slog.LevelError: "error"}[r.Level]
	attributes := h.attributes
	r.Attrs(func(a slog.Attr) bool {
		attributes += " " + a.Key + "=" + quoted(a.Value.String())
		return true
	})
	h.print(level, r.Message, attributes)
	return nil
}

func (h *handler) WithAttrs(list []slog.Attr) slog.Handler {
	attributes := h.attributes
	for _, a := range list {
		attributes += " " + a.Key + "=" + quoted(a.Value.String())
	}
	return &handler{h.logger, attributes}
}

func (h *handler) WithGroup(string) slog.Handler { return h }

// debugLines logs what is written to it, line by line.
type debugLines struct{ *logger }

func (d *debugLines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		d.print("debug", strings.TrimRight(line, "\n"), "")
	}
	return len(p), nil
}
