package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// mounted is what overlay shows of layers, topmost first.
func mounted(t testing.TB, dirs []string) string {
	t.Helper()
	at, empty := plainDir(t), plainDir(t)
	dirs = append(slices.Clone(dirs), empty) // overlay wants two at least
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return at
}

// plainDir is a directory whose name has nothing that the options of a mount do not take.
func plainDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gantry-image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// tree describes all files below a directory, but not the directory.
func tree(t testing.TB, root string) []string {
	t.Helper()
	var list []string
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d", strings.TrimPrefix(path, root+"/"), st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		case unix.S_IFREG:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q links %d", text, st.Nlink)
		case unix.S_IFDIR:
			value := make([]byte, 64)
			if n, err := unix.Lgetxattr(path, "user.note", value); err == nil {
				line += " note " + string(value[:n])
			}
		}
		list = append(list, line)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// inOrder is what containerd makes of layers by applying one after the other to one directory.
func inOrder(t testing.TB, layers ...[]byte) (string, error) {
	t.Helper()
	root := t.TempDir()
	for _, layer := range layers {
		if _, err := archive.Apply(context.Background(), root, bytes.NewReader(layer)); err != nil {
			return "", err
		}
	}
	return root, nil
}

func with(e entry, mode int64, uid, gid int, note string) entry {
	e.Mode, e.Uid, e.Gid = mode, uid, gid
	if note != "" {
		e.PAXRecords = map[string]string{"SCHILY.xattr.user.note": note}
	}
	return e
}

func symlink(name, target string) entry { return link(tar.TypeSymlink, name, target) }

func hardlink(name, target string) entry {
	return with(link(tar.TypeLink, name, target), 0o644, 0, 0, "")
}

// impliedCases are layers of which some leave out directories, as builders of images make them.
func impliedCases() map[string][][]entry {
	merged := []entry{dir("usr"), with(dir("usr/bin"), 0o755, 0, 0, ""), dir("usr/lib"), symlink("bin", "usr/bin"), symlink("lib", "/usr/lib"), file("usr/bin/sh", "sh"), with(dir("tmp"), 0o1777, 0, 0, "")}
	return map[string][][]entry{
		"Bazel: a file in a merged directory":       {merged, {file("bin/hello", "hello")}},
		"Bazel: with a dot":                         {merged, {file("./bin/hello", "hello"), file("./tmp/x", "x")}},
		"by an absolute link":                       {merged, {file("lib/so", "so")}},
		"mode and owner":                            {{with(dir("srv"), 0o2750, 7, 8, "keep"), with(dir("srv/in"), 0o1777, 9, 10, "")}, {file("srv/in/x", "x")}},
		"Jib: nothing below":                        {merged, {file("app/libs/a.jar", "a"), file("app/classes/A.class", "c")}},
		"Jib: layers upon each other":               {{with(dir("app"), 0o700, 5, 5, "")}, {file("app/libs/a.jar", "a")}, {file("app/classes/A.class", "c")}, {file("app/libs/b.jar", "b")}},
		"ko: by a relative link":                    {{dir("run"), dir("var"), symlink("var/run", "../run")}, {file("var/run/ko/app", "a"), file("ko-app/app", "b")}},
		"Nix: read-only directories":                {{with(dir("./nix"), 0o555, 0, 0, ""), with(dir("./nix/store"), 0o1775, 0, 30, "")}, {file("./nix/store/abc-x/bin/y", "y")}, {with(dir("./nix/store/def-z"), 0o555, 0, 0, ""), file("./nix/store/def-z/f", "z")}},
		"Kaniko: all entries":                       {merged, {with(dir("tmp"), 0o700, 1, 1, ""), file("tmp/x", "x")}},
		"a link to nowhere yet":                     {{symlink("data", "mnt/vol/data")}, {file("data/x", "x")}},
		"an absolute link to nowhere yet":           {{symlink("data", "/mnt/vol/data")}, {file("data/sub/x", "x")}},
		"links upon links":                          {{dir("d"), symlink("c", "d"), symlink("b", "c"), symlink("a", "b")}, {file("a/x", "x"), file("b/y", "y")}},
		"a link back and forth":                     {{dir("usr"), dir("usr/lib64"), symlink("usr/lib", "../usr/lib64/../lib64"), dir("opt"), symlink("opt/x", "../usr/lib")}, {file("opt/x/f", "f")}},
		"a link out of the root":                    {{symlink("evil", "../../../../../../etc"), symlink("worse", "/proc/self/root/etc")}, {file("evil/passwd", "x")}},
		"a link to the root":                        {{symlink("r", "/"), symlink("s", "..")}, {file("r/a/x", "x"), file("s/y", "y")}},
		"a link of a layer in the middle":           {{dir("usr"), dir("usr/bin")}, {symlink("bin", "usr/bin")}, {file("bin/x", "x")}},
		"a link that was removed":                   {merged, {file(".wh.bin", "")}, {file("bin/x", "x")}},
		"a directory that was removed":              {merged, {file(".wh.tmp", "")}, {file("tmp/x", "x")}},
		"a directory that was removed and made":     {merged, {file(".wh.tmp", "")}, {with(dir("tmp"), 0o711, 3, 3, "")}, {file("tmp/x", "x")}},
		"a link in a directory that was emptied":    {{dir("v"), dir("run"), symlink("v/run", "../run")}, {dir("v"), file("v/.wh..wh..opq", "")}, {file("v/run/x", "x")}},
		"a link hidden by a directory":              {merged, {dir("bin"), file("bin/a", "a")}, {file("bin/b", "b")}},
		"a link hidden by a file":                   {merged, {file("bin", "no directory")}, {file("lib/x", "x")}},
		"a whiteout by a link":                      {merged, {file("bin/.wh.sh", "")}},
		"a whiteout by a link, and the file again":  {merged, {file("bin/.wh.sh", "")}, {file("bin/sh", "new")}},
		"a whiteout in an implied directory":        {{with(dir("d"), 0o700, 4, 4, ""), file("d/a", "a"), file("d/b", "b")}, {file("d/.wh.a", "")}},
		"the entry after its files":                 {{with(dir("d"), 0o1777, 4, 4, "")}, {file("d/x", "x"), with(dir("d"), 0o700, 6, 6, "")}},
		"the directory replaced by a file":          {{with(dir("d"), 0o1777, 4, 4, "")}, {file("d/x", "x"), file("d", "file")}},
		"the directory replaced, and made again":    {{with(dir("d"), 0o1777, 4, 4, "")}, {file("d/x", "x"), file("d", "file"), with(dir("d"), 0o711, 0, 0, "")}},
		"the link of the layer itself":              {{dir("usr"), with(dir("usr/lib"), 0o700, 2, 2, "")}, {symlink("lib", "usr/lib"), file("lib/x", "x")}},
		"the link of the layer itself, to no entry": {{dir("usr")}, {symlink("lib", "usr/lib"), file("lib/x", "x")}},
		"a hard link in a merged directory":         {merged, {file("bin/a", "a"), hardlink("bin/b", "bin/a")}},
		"a hard link by the other name":             {merged, {file("bin/a", "a"), hardlink("bin/b", "usr/bin/a"), hardlink("c", "usr/bin/b")}},
		"a hard link by the link":                   {merged, {file("usr/bin/a", "a"), hardlink("b", "bin/a"), hardlink("./bin/c", "./bin/a")}},
		"a hard link in an implied directory":       {{with(dir("d"), 0o700, 4, 4, "")}, {file("d/a", "a"), hardlink("d/b", "d/a")}},
		"a symbolic link in an implied directory":   {merged, {symlink("bin/s", "sh"), symlink("tmp/t", "../etc")}},
		"a directory in an implied one":             {merged, {with(dir("bin/d"), 0o711, 1, 1, ""), file("bin/d/x", "x")}},
		"at the bottom":                             {{file("a/b/c", "c")}, {with(dir("a"), 0o700, 1, 1, "")}, {file("a/b/d", "d")}},
		"the same file by two names":                {merged, {file("bin/x", "first"), file("usr/bin/x", "second")}},
		"the same file by two names, the other way": {merged, {file("usr/bin/x", "first"), file("bin/x", "second")}},
		"deep": {{with(dir("a"), 0o701, 1, 1, ""), with(dir("a/b"), 0o702, 2, 2, ""), with(dir("a/b/c"), 0o703, 3, 3, "deep")}, {file("a/b/c/d/e/f", "f")}, {file("a/b/c/d/e/g", "g")}},
		"attributes that a layer above has changed":  {{with(dir("a"), 0o700, 1, 1, "old"), dir("a/b")}, {with(dir("a"), 0o711, 2, 2, "new")}, {file("a/b/c", "c")}},
		"an implied directory over an implied one":   {{with(dir("a"), 0o700, 1, 1, "old")}, {file("a/x", "x")}, {file("a/y", "y")}},
		"directories alone, in implied ones":         {{with(dir("a"), 0o700, 1, 1, "")}, {dir("a/b/c")}},
		"a loop of links, which nothing goes by way": {{symlink("l", "m"), symlink("m", "l")}, {file("n/x", "x")}},
	}
}

// TestImpliedDirectories: layers that leave out directories look as if they were applied one after the other, whether they
// are loaded or pulled.
func TestImpliedDirectories(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	for name, c := range impliedCases() {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, entries := range c {
				layers = append(layers, tarOf(t, entries...))
			}
			reference, err := inOrder(t, layers...)
			if err != nil {
				t.Fatalf("the reference fails: %v", err)
			}
			want := tree(t, reference)
			r.tag("app:1", r.build(t, here, layers...))
			for how, get := range map[string]func() (*Image, error){
				"load": func() (*Image, error) {
					list, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, []string{"app:1"}, layers...)), nil)
					if err != nil {
						return nil, err
					}
					return list[0].Image, nil
				},
				"pull": func() (*Image, error) { return s.Pull(ctx, r.host()+"/app:1", PullOptions{}) },
			} {
				img, err := get()
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				dirs, err := s.Rootfs(ctx, img)
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if got := tree(t, mounted(t, dirs)); !slices.Equal(got, want) {
					t.Errorf("%s: got\n\t%s\nwant\n\t%s", how, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
				}
				if _, err := s.Remove(ctx, img.ID.String(), true); err != nil {
					t.Error(err)
				}
				nothingLeft(t, s)
			}
		})
	}
}

// TestImpliedTimes: an implied directory has the time of the one below.
func TestImpliedTimes(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	when := time.Unix(1_000_000_000, 0)
	timed := dir("d")
	timed.ModTime = when
	for name, layer := range map[string][]entry{"completed": {file("d/x", "x")}, "unpacked again": {file("l/y", "y"), file("d/x", "x")}} {
		lower := []entry{timed, symlink("l", "d")}
		list, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, nil, tarOf(t, lower...), tarOf(t, layer...))), nil)
		if err != nil {
			t.Fatal(err)
		}
		dirs, err := s.Rootfs(ctx, list[0].Image)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dirs[0] + "/d"); err != nil || !info.ModTime().Equal(when) {
			t.Errorf("%s: %v, %v", name, info.ModTime(), err)
		}
	}
}

// TestSharedImpliedLayer: one layer over several bases is what each base makes of it, at the same time, after the store
// was opened again, and after images were removed; a layer without implied directories stays shared.
func TestSharedImpliedLayer(t *testing.T) {
	ctx, r, root := context.Background(), newRegistry(t), t.TempDir()
	s, err := Open(ctx, Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	app, plain := tarOf(t, file("bin/app", "app")), tarOf(t, dir("etc"), file("etc/conf", "conf"))
	bases := map[string][]entry{
		"merged":  {dir("usr"), dir("usr/bin"), symlink("bin", "usr/bin")},
		"strict":  {with(dir("bin"), 0o700, 3, 4, "")},
		"sticky":  {with(dir("bin"), 0o1777, 0, 0, "")},
		"missing": {dir("other")},
	}
	want := map[string][]string{}
	var group errgroup.Group
	for name, base := range bases {
		layers := [][]byte{tarOf(t, base...), app, plain}
		reference, err := inOrder(t, layers...)
		if err != nil {
			t.Fatal(err)
		}
		want[name] = tree(t, reference)
		r.tag(name+":1", r.build(t, here, layers...))
		for range 2 {
			group.Go(func() error {
				_, err := s.Pull(ctx, r.host()+"/"+name+":1", PullOptions{})
				return err
			})
		}
	}
	want["scratch"] = []string{"bin 40755 0:0", `bin/app 100644 0:0 "app" links 1`}
	r.tag("scratch:1", r.build(t, here, app))
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(ctx, r.host()+"/scratch:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if err := s.Collect(ctx); err != nil {
			t.Error(err)
		}
		for name := range want {
			img, err := s.Get(ctx, r.host()+"/"+name+":1", nil)
			if err != nil {
				t.Fatal(err)
			}
			dirs, err := s.Rootfs(ctx, img)
			if err != nil {
				t.Fatalf("%s: %s: %v", when, name, err)
			}
			if got := tree(t, mounted(t, dirs)); !slices.Equal(got, want[name]) {
				t.Errorf("%s: %s: got\n\t%s\nwant\n\t%s", when, name, strings.Join(got, "\n\t"), strings.Join(want[name], "\n\t"))
			}
		}
		// Each base, the application over each, and once what depends on nothing.
		layers := 2*len(want) + 1
		if _, found := want["scratch"]; found {
			layers-- // which has no base
		}
		if n := len(s.layers.ids()); n != layers {
			t.Errorf("%s: %d layers, want %d", when, n, layers)
		}
	}
	check("pulled")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, Options{Root: root})
	check("opened again")
	for _, name := range []string{"scratch", "merged", "missing"} {
		delete(want, name)
		if _, err := s.Remove(ctx, r.host()+"/"+name+":1", false); err != nil {
			t.Fatal(err)
		}
		check("without " + name)
	}
	for _, name := range []string{"strict", "sticky"} {
		if _, err := s.Remove(ctx, r.host()+"/"+name+":1", false); err != nil {
			t.Fatal(err)
		}
	}
	nothingLeft(t, s)
}

// TestImpliedFailures: what cannot be unpacked onto the layers below is an error, and leaves nothing.
func TestImpliedFailures(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	for name, layers := range map[string][][]byte{
		"a loop of links":             {tarOf(t, symlink("a", "b"), symlink("b", "a")), tarOf(t, file("a/x", "x"))},
		"a hard link to nothing":      {tarOf(t, dir("d")), tarOf(t, file("d/x", "x"), hardlink("y", "d/none"))},
		"a hard link, at the bottom":  {tarOf(t, hardlink("y", "none"))},
		"a file as a directory":       {tarOf(t, dir("d")), tarOf(t, file("d/x", "x"), file("d/x/y", "y"))},
		"a link to a file":            {tarOf(t, file("f", "f"), symlink("l", "f")), tarOf(t, file("l/x", "x"), file("f/y", "y"), file("f", "x"), file("l/x", "x"))},
		"a link by itself":            {tarOf(t, symlink("l", "l/l")), tarOf(t, file("l/x", "x"))},
		"a second pass that is wrong": {tarOf(t, symlink("l", "f")), tarOf(t, file("l/x", "x"), file("f", "f"), file("l/y", "y"))},
	} {
		t.Run(name, func(t *testing.T) {
			if list, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, []string{"app:1"}, layers...)), nil); err == nil {
				t.Errorf("loaded %+v", list[0].Image)
			}
			nothingLeft(t, s)
			r.tag("app:1", r.build(t, here, layers...))
			if img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{}); err == nil {
				t.Errorf("pulled %+v", img)
			}
			nothingLeft(t, s)
		})
	}
}

// TestImpliedAtRandom compares layers of random entries with the reference, by both ways: completed where that is enough,
// and unpacked onto the layers below.
func TestImpliedAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "a/b", "b/a", "a/a/b", "b/b", "c", "c/a"}
	targets := []string{"a", "b", "/a", "../b", "b/a", "/c", "..", "c/a", "a/../b"}
	compared := 0
	for round := range 400 {
		var layers [][]byte
		for range 3 {
			var entries []entry
			for range 1 + random.IntN(4) {
				name := names[random.IntN(len(names))]
				switch random.IntN(6) {
				case 0, 1, 2:
					entries = append(entries, file(name, fmt.Sprint(random.IntN(100))))
				case 3:
					entries = append(entries, with(dir(name), int64(0o700+random.IntN(64)), random.IntN(9), random.IntN(9), ""))
				default:
					entries = append(entries, symlink(name, targets[random.IntN(len(targets))]))
				}
			}
			layers = append(layers, tarOf(t, entries...))
		}
		reference, err := inOrder(t, layers...)
		if err != nil {
			continue // a file as a directory, mostly
		}
		compared++
		want := tree(t, reference)
		for how, twice := range map[string]bool{"completed": false, "onto the layers below": true} {
			dirs, err := unpackOnto(t, layers, twice)
			if errors.Is(err, unix.ELOOP) { // the reference puts it somewhere
				continue
			}
			if err != nil {
				t.Errorf("round %d, %s: %v", round, how, err)
				continue
			}
			at := mounted(t, dirs)
			if got := tree(t, at); !slices.Equal(got, want) {
				t.Errorf("round %d, %s: got\n\t%s\nwant\n\t%s\nlayers %s", round, how, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"), describeLayers(t, layers))
			}
		}
	}
	if compared < 50 {
		t.Errorf("only %d compared", compared)
	}
}

// unpackOnto unpacks layers one after the other, each onto those below: at once, or completed if that is enough.
func unpackOnto(t testing.TB, layers [][]byte, atOnce bool) (dirs []string, err error) {
	t.Helper()
	for _, layer := range layers {
		below, err := openLower(dirs)
		if err != nil {
			t.Fatal(err)
		}
		defer below.close()
		again := true
		base := plainDir(t)
		if !atOnce {
			u := &unpacker{entries: 1000, left: 1 << 20}
			root := filepath.Join(base, "fs")
			if err := errors.Join(os.Mkdir(root, 0o755), u.unpack(root, bytes.NewReader(layer))); err != nil {
				return nil, fmt.Errorf("first pass: %w", err)
			}
			first := &unpacked{dir: base, implied: u.implied, unresolved: u.unresolved}
			if again, err = first.complete(below); err != nil {
				return nil, err
			}
		}
		if again {
			base = plainDir(t)
			root := filepath.Join(base, "fs")
			u := &unpacker{entries: 1000, left: 1 << 20, lower: below}
			if err := errors.Join(os.Mkdir(root, 0o755), u.unpack(root, bytes.NewReader(layer))); err != nil {
				return nil, err
			}
		}
		dirs = slices.Insert(dirs, 0, filepath.Join(base, "fs"))
	}
	return dirs, nil
}

func describeLayers(t testing.TB, layers [][]byte) string {
	t.Helper()
	var text strings.Builder
	for i, layer := range layers {
		for r := tar.NewReader(bytes.NewReader(layer)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			fmt.Fprintf(&text, "\n\t%d: %s %c %s %o", i, h.Name, h.Typeflag, h.Linkname, h.Mode)
		}
	}
	return text.String()
}
