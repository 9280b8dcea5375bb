package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123450000, time.UTC)

func open(t *testing.T, o Options) *Writer {
	t.Helper()
	w, err := OpenWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func write(t *testing.T, w *Writer, s Stream, text string, at time.Time) {
	t.Helper()
	if err := w.Write(s, []byte(text), at); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func collect(t *testing.T, path string, q Query) []Entry {
	t.Helper()
	var all []Entry
	if err := Read(t.Context(), path, q, func(e Entry) error { all = append(all, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func text(all []Entry) string {
	var b strings.Builder
	for _, e := range all {
		b.Write(e.Line)
	}
	return b.String()
}

func TestFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, Options{Path: path, Attrs: map[string]string{"k": "v<"}})
	write(t, w, Stdout, "a\nb", noon)
	write(t, w, Stderr, "\x1b[1m\xff\"<ü>\u2028\r\n", noon)
	write(t, w, Stdout, "c\n\nheld", noon)
	want := `{"log":"a\n","stream":"stdout","attrs":{"k":"v\u003c"},"time":"2026-03-01T12:00:00.12345Z"}` + "\n" +
		`{"log":"\u001b[1m\ufffd\"\u003cü\u003e\u2028\r\n","stream":"stderr","attrs":{"k":"v\u003c"},"time":"2026-03-01T12:00:00.12345Z"}` + "\n" +
		`{"log":"bc\n","stream":"stdout","attrs":{"k":"v\u003c"},"time":"2026-03-01T12:00:00.12345Z"}` + "\n" +
		`{"log":"\n","stream":"stdout","attrs":{"k":"v\u003c"},"time":"2026-03-01T12:00:00.12345Z"}` + "\n"
	if got := content(t, path); got != want {
		t.Errorf("got\n%s want\n%s", got, want)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	all := collect(t, path, Query{Tail: -1})
	if got := text(all); got != "a\n\x1b[1m\ufffd\"<ü>\u2028\r\nbc\n\nheld" {
		t.Errorf("read %q", got)
	}
	if e := all[1]; e.Stream != Stderr || !e.Time.Equal(noon) || e.Attrs["k"] != "v<" {
		t.Errorf("entry %+v", e)
	}
	if err := w.Write(Stdout, []byte("x\n"), noon); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestLongLinesAreCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, Options{Path: path})
	long := strings.Repeat("x", 2*MaxLine+5) + "\n"
	write(t, w, Stdout, long[:MaxLine-1], noon)
	write(t, w, Stdout, long[MaxLine-1:], noon)
	all := collect(t, path, Query{Tail: -1})
	var sizes []int
	for _, e := range all {
		sizes = append(sizes, len(e.Line))
	}
	if !reflect.DeepEqual(sizes, []int{MaxLine, MaxLine, 6}) || text(all) != long {
		t.Errorf("pieces of %v bytes", sizes)
	}
}

func TestTornLastLineIsRepaired(t *testing.T) {
	whole := `{"log":"a\n","stream":"stdout","time":"2026-03-01T12:00:00Z"}` + "\n"
	for name, torn := range map[string]string{"half": `{"log":"b`, "nothing": "", "long": strings.Repeat("y", 100_000)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(whole+torn), 0o600); err != nil {
				t.Fatal(err)
			}
			write(t, open(t, Options{Path: path}), Stdout, "c\n", noon)
			if got := text(collect(t, path, Query{Tail: -1})); got != "a\nc\n" {
				t.Errorf("read %q", got)
			}
			if !strings.HasPrefix(content(t, path), whole+`{"log":"c`) {
				t.Errorf("the file has %.200q", content(t, path))
			}
		})
	}
}

func TestRotation(t *testing.T) {
	for _, files := range []int{1, 3} {
		path := filepath.Join(t.TempDir(), "log")
		w := open(t, Options{Path: path, MaxSize: 1000, MaxFiles: files})
		for i := range 100 {
			write(t, w, Stdout, fmt.Sprintf("line %03d\n", i), noon)
		}
		var total int
		for i := range files {
			size := len(content(t, rotated(path, i)))
			if total += size; size > 1000 {
				t.Errorf("file %d has %d bytes", i, size)
			}
		}
		if _, err := os.Stat(rotated(path, files)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("file %d: %v", files, err)
		}
		all := collect(t, path, Query{Tail: -1})
		for i, e := range all {
			if want := fmt.Sprintf("line %03d\n", 100-len(all)+i); string(e.Line) != want {
				t.Fatalf("entry %d of %d is %q, want %q", i, len(all), e.Line, want)
			}
		}
		if got := text(collect(t, path, Query{Tail: 20})); files == 3 && strings.Count(got, "\n") != 20 || !strings.HasSuffix(got, "099\n") {
			t.Errorf("tail over %d files: %q", files, got)
		}
	}
}

func TestQuery(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, Options{Path: path})
	for i := range 10 {
		write(t, w, Stdout, fmt.Sprintln(i), noon.Add(time.Duration(i)*time.Second))
	}
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) }
	for _, c := range []struct {
		name string
		q    Query
		want string
	}{
		{"all", Query{Tail: -1}, "0123456789"},
		{"none", Query{Tail: 0}, ""},
		{"tail", Query{Tail: 3}, "789"},
		{"long tail", Query{Tail: 30}, "0123456789"},
		{"since", Query{Tail: -1, Since: at(6)}, "6789"},
		{"until", Query{Tail: -1, Until: at(2)}, "012"},
		{"between", Query{Tail: -1, Since: at(2), Until: at(4)}, "234"},
		{"tail, then since", Query{Tail: 5, Since: at(7)}, "789"},
	} {
		if got := strings.ReplaceAll(text(collect(t, path, c.q)), "\n", ""); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := collect(t, path+"-missing", Query{Tail: -1}); got != nil {
		t.Errorf("a missing log has %v", got)
	}
}

func TestFollowThroughRotations(t *testing.T) {
	const lines = 3000
	path := filepath.Join(t.TempDir(), "log")
	w := open(t, Options{Path: path, MaxSize: 20_000, MaxFiles: 100})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range lines {
			if err := w.Write(Stdout, fmt.Appendf(nil, "%d\n", i), noon); err != nil {
				t.Error(err)
			}
			if i%100 == 0 {
				time.Sleep(time.Millisecond) // lets the reader catch up now and then
			}
		}
	}()
	for i, e := range collect(t, path, Query{Tail: -1, Follow: true, Done: done}) {
		if string(e.Line) != fmt.Sprintln(i) {
			t.Fatalf("entry %d is %q", i, e.Line)
		}
		if i == lines-1 {
			return
		}
	}
	t.Fatal("lines are missing")
}

func TestFollowEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string, 10)
	result := make(chan error)
	go func() {
		result <- Read(ctx, path, Query{Tail: 0, Follow: true}, func(e Entry) error { seen <- string(e.Line); return nil })
	}()
	w := open(t, Options{Path: path})
	go func() { // until the reader, which skips what is there when it comes, has seen one
		for ctx.Err() == nil {
			_ = w.Write(Stderr, []byte("x\n"), noon)
			time.Sleep(time.Millisecond)
		}
	}()
	if got := <-seen; got != "x\n" {
		t.Errorf("saw %q", got)
	}
	cancel()
	for {
		select {
		case <-seen:
			continue
		case err := <-result:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("end: %v", err)
			}
		}
		break
	}
	if err := Read(t.Context(), path, Query{Tail: -1, Follow: true, Until: time.Now()}, func(Entry) error { return nil }); err != nil {
		t.Errorf("until: %v", err)
	}
	stop := errors.New("stop")
	if err := Read(t.Context(), path, Query{Tail: -1, Follow: true}, func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of the callback: %v", err)
	}
}

func TestDamageIsSkipped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	good := `{"stream":"stdout","log":"ok\n","time":"2026-03-01T12:00:00Z"}` + "\n"
	damage := "\x00\x00\n{}\n[1]\n" + strings.Repeat("z", longestLine+10) + "\n" + `{"log":"x","stream":"odd","time":"2026-03-01T12:00:00Z"}` + "\n"
	if err := os.WriteFile(path, []byte(good+damage+good+`{"log":"torn`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := text(collect(t, path, Query{Tail: -1})); got != "ok\nok\n" {
		t.Errorf("read %q", got)
	}
}

func TestURI(t *testing.T) {
	for _, o := range []Options{
		{Path: "/a/b c?%.log", MaxFiles: 1},
		{Path: "/x", MaxSize: 10 << 20, MaxFiles: 3, Attrs: map[string]string{"a": "b=c", "d": "&"}},
	} {
		got, err := ParseURI(o.URI())
		if err != nil || !reflect.DeepEqual(got, o) {
			t.Errorf("%s: %+v, %v", o.URI(), got, err)
		}
	}
	for _, bad := range []string{"", "attach:", "json-file:rel", "json-file://host/x", "json-file:///x?max-size=-1", "json-file:///x?max-file=0", "json-file:///x?y=1", "json-file:///%zz"} {
		if o, err := ParseURI(bad); err == nil {
			t.Errorf("%q was taken for %+v", bad, o)
		}
	}
}

func TestFrame(t *testing.T) {
	var b bytes.Buffer
	if err := Frame(&b, Stderr, []byte("hey")); err != nil || b.String() != "\x02\x00\x00\x00\x00\x00\x00\x03hey" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func FuzzEncode(f *testing.F) {
	for _, s := range []string{"", "a\n", "\x00\x1f\x7f\"\\/<>&", "ü\u2028\u2029\xed\xa0\x80\xff", "\b\f\t\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		want, err := json.Marshal(string(line))
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, line); !bytes.Equal(got, want) {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
		e, err := parse(bytes.TrimSuffix(appendEntry(nil, line, Stdout, nil, appendTime(nil, noon)), []byte("\n")))
		if err != nil || string(e.Line) != strings.ToValidUTF8(string(line), "\ufffd") && utf8.Valid(line) || !e.Time.Equal(noon) {
			t.Errorf("%q came back as %q, %v", line, e.Line, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"log":"a\n","stream":"stdout","time":"2026-03-01T12:00:00Z"}`, `{"log":"\u001b","stream":"stderr","time":"2026-03-01T12:00:00.5+01:00"}`,
		`{"log":"","stream":"stdout","time":"0"}`, `{"log":"a","stream":"stdout","attrs":{"x":"y"},"time":"2026-03-01T12:00:00Z"}`, `{"log":"\"}`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, ok := parseOwn(line)
		if !ok {
			_, _ = parse(line)
			return
		}
		var v struct {
			Log, Stream string
			Time        time.Time
		}
		if err := json.Unmarshal(line, &v); err != nil || v.Log != string(e.Line) || v.Stream != e.Stream.String() || !v.Time.Equal(e.Time) {
			t.Errorf("%q: quick %+v, encoding/json %+v, %v", line, e, v, err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	w, err := OpenWriter(Options{Path: filepath.Join(b.TempDir(), "log")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	chunk := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 100)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if err := w.Write(Stdout, chunk, noon); err != nil {
			b.Fatal(err)
		}
	}
}
