package user

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	passwdFile = `# comment
root:x:0:0:root:/root:/bin/sh
adm:x:42:43:adm:/var/adm:/bin/false
111:x:222:333::/var/garbage
99999999999:x:0:0::/root:/bin/sh
2147483648:x:0:0::/root:/bin/sh
broken:x::0::/root:/bin/sh
huge:x:4294967296:0::/root:/bin/sh
relative:x:50:50::tmp:/bin/sh
  spaced:x:51:51::/spaced:/bin/sh
short:x:52
homeless:x:53:53
adm:x:1:1:second:/second:/bin/sh
`
	groupFile = `root:x:0:root
adm:x:43:
grp:x:1234:root,adm,user1111
adm2:x:1235:adm
444:x:555:
bad:x::adm
`
)

func rootWith(t testing.TB, files map[string]string) *os.File {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func TestResolve(t *testing.T) {
	full := map[string]string{"etc/passwd": passwdFile, "etc/group": groupFile}
	for _, c := range []struct {
		spec  string
		extra []string
		want  Identity
	}{
		{"", nil, Identity{0, 0, []uint32{0, 1234}, "/root", "root"}},
		{"root", nil, Identity{0, 0, []uint32{0, 1234}, "/root", "root"}},
		{"adm", nil, Identity{42, 43, []uint32{43, 1234, 1235}, "/var/adm", "adm"}},
		{"42", nil, Identity{42, 43, []uint32{43, 1234, 1235}, "/var/adm", "adm"}},
		{"adm:", nil, Identity{42, 43, []uint32{43, 1234, 1235}, "/var/adm", "adm"}},
		{"adm:grp", nil, Identity{42, 1234, []uint32{1234}, "/var/adm", "adm"}},
		{"adm:10", nil, Identity{42, 10, []uint32{10}, "/var/adm", "adm"}},
		{"adm:444", nil, Identity{42, 444, []uint32{444}, "/var/adm", "adm"}},
		{":grp", nil, Identity{0, 1234, []uint32{1234}, "/root", "root"}},
		{"111", nil, Identity{111, 0, []uint32{0}, "/", ""}},
		{"111:5", nil, Identity{111, 5, []uint32{5}, "/", ""}},
		{"222", nil, Identity{222, 333, []uint32{333}, "/var/garbage", "111"}},
		{"2147483647", nil, Identity{2147483647, 0, []uint32{0}, "/", ""}},
		{"relative", nil, Identity{50, 50, []uint32{50}, "/", "relative"}},
		{"spaced", nil, Identity{51, 51, []uint32{51}, "/spaced", "spaced"}},
		{"homeless", nil, Identity{53, 53, []uint32{53}, "/", "homeless"}},
		{"7", []string{"grp", "8", "grp", "0"}, Identity{7, 0, []uint32{0, 1234, 8}, "/", ""}},
		{"adm:grp", []string{"adm2", "43"}, Identity{42, 1234, []uint32{1234, 1235, 43}, "/var/adm", "adm"}},
	} {
		got, err := Resolve(rootWith(t, full), c.spec, c.extra)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Resolve(%q, %q) = %+v, %v; want %+v", c.spec, c.extra, got, err, c.want)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	full := map[string]string{"etc/passwd": passwdFile, "etc/group": groupFile}
	for _, c := range []struct {
		spec  string
		extra []string
		want  error
	}{
		{"nobody", nil, ErrNoPasswdEntries},
		{"broken", nil, ErrNoPasswdEntries},
		{"huge", nil, ErrNoPasswdEntries},
		{"short", nil, ErrNoPasswdEntries},
		{"root\nx", nil, ErrNoPasswdEntries},
		{"0x0", nil, ErrNoPasswdEntries},
		{"root:nogroup", nil, ErrNoGroupEntries},
		{"root:bad", nil, ErrNoGroupEntries},
		{"root", []string{"nogroup"}, ErrNoGroupEntries},
		{"root", []string{""}, ErrNoGroupEntries},
		{"2147483648", nil, ErrRange},
		{"4294967295", nil, ErrRange},
		{"4294967296", nil, ErrRange},
		{"99999999999", nil, ErrRange},
		{"99999999999999999999999999", nil, ErrRange},
		{"-1", nil, ErrRange},
		{"+0", nil, ErrRange},
		{"0:4294967296", nil, ErrRange},
		{"0", []string{"-5"}, ErrRange},
		{"0:0:0", nil, ErrSyntax},
	} {
		if got, err := Resolve(rootWith(t, full), c.spec, c.extra); !errors.Is(err, c.want) {
			t.Errorf("Resolve(%q, %q) = %+v, %v; want %v", c.spec, c.extra, got, err, c.want)
		}
	}
	_, err := Resolve(rootWith(t, nil), "foo", nil)
	if want := "unable to find user foo: no matching entries in passwd file"; err == nil || err.Error() != want {
		t.Errorf("error %v; want %s", err, want)
	}
}

func TestResolveWithoutFiles(t *testing.T) {
	root := rootWith(t, nil)
	for spec, want := range map[string]Identity{
		"":     {0, 0, []uint32{0}, "/", ""},
		"0":    {0, 0, []uint32{0}, "/", ""},
		"33:7": {33, 7, []uint32{7}, "/", ""},
	} {
		if got, err := Resolve(root, spec, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Resolve(%q) = %+v, %v; want %+v", spec, got, err, want)
		}
	}
}

func TestLinksStayInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("foo:x:7:7::/:/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	root := rootWith(t, map[string]string{"users": "foo:x:8:8::/in:/\n"})
	for _, c := range []struct {
		target string
		found  bool
	}{
		{outside, false},
		{"../../../../../../../.." + outside, false},
		{"/users", true},
		{"../users", true},
		{"../../../users", true},
	} {
		if err := os.Symlink(c.target, filepath.Join(root.Name(), "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		id, err := Resolve(root, "foo", nil)
		if c.found && (err != nil || id.UID != 8) || !c.found && !errors.Is(err, ErrNoPasswdEntries) {
			t.Errorf("link to %s: %+v, %v; want found %v", c.target, id, err, c.found)
		}
		if err := os.Remove(filepath.Join(root.Name(), "etc/passwd")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostileFiles(t *testing.T) {
	for _, c := range []struct {
		name, want string
		make       func(path string) error
	}{
		{"fifo", "not a regular file", func(p string) error { return unix.Mkfifo(p, 0o644) }},
		{"device", "not a regular file", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) }},
		{"directory", "not a regular file", func(p string) error { return os.Mkdir(p, 0o755) }},
		{"loop", "too many levels", func(p string) error { return os.Symlink("passwd", p) }},
		{"large", "larger than", func(p string) error {
			return os.WriteFile(p, []byte(strings.Repeat("a:x:1:1\n", maxFile/8+1)), 0o644)
		}},
		{"long line", "token too long", func(p string) error {
			return os.WriteFile(p, []byte(strings.Repeat("a", maxLine+1)), 0o644)
		}},
	} {
		root := rootWith(t, nil)
		if err := c.make(filepath.Join(root.Name(), "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if _, err := Resolve(root, "a", nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v; want %q", c.name, err, c.want)
		}
	}
}

func TestTooManyGroups(t *testing.T) {
	var groups strings.Builder
	for i := range maxGroups + 1 {
		groups.WriteString("g:x:" + strconv.Itoa(i+1) + ":u\n")
	}
	root := rootWith(t, map[string]string{"etc/passwd": "u:x:5:5::/:/\n", "etc/group": groups.String()})
	if _, err := Resolve(root, "u", nil); !errors.Is(err, ErrTooManyGroups) {
		t.Errorf("error %v; want %v", err, ErrTooManyGroups)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add(passwdFile, groupFile, "adm:grp", "adm2")
	f.Add("a:b\n::::::\n:::", "::\n:\n", ":", "0")
	f.Add("99999999999:x:0:0::\x00/\n", "x:x:4294967296:", "99999999999", "-1")
	f.Fuzz(func(t *testing.T, users, groups, spec, extra string) {
		id, err := Resolve(rootWith(t, map[string]string{"etc/passwd": users, "etc/group": groups}), spec, []string{extra})
		if err != nil {
			return
		}
		if id.UID > maxID || id.GID > maxID || len(id.Groups) == 0 || id.Groups[0] != id.GID {
			t.Errorf("%q gives %+v", spec, id)
		}
		if !strings.HasPrefix(id.Home, "/") || strings.ContainsAny(id.Home, "\n\x00") {
			t.Errorf("%q gives home %q, name %q", spec, id.Home, id.Name)
		}
		arg, _, _ := strings.Cut(spec, ":")
		if n, isNumber, _ := number(arg); isNumber && n != id.UID {
			t.Errorf("%q gives uid %d", spec, id.UID)
		}
	})
}
