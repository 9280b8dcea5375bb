package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// then is the time of some of the sources.
var then = time.Unix(100_000_000, 0)

// sources makes the tree that the rules are tried with.
func sources(t *testing.T, dir string) {
	t.Helper()
	writeText(t, dir+"/s/tree/sub/file", "deep")
	writeText(t, dir+"/s/tree/first", "first")
	writeText(t, dir+"/s/plain", "plain")
	writeText(t, dir+"/d/old", "old")
	writeText(t, dir+"/d/full/tree/first", "to be replaced")
	if err := errors.Join(os.Link(dir+"/s/tree/first", dir+"/s/tree/second"), os.Symlink("sub", dir+"/s/tree/within"), os.Symlink("/nowhere", dir+"/s/tree/broken"),
		os.Symlink("tree", dir+"/s/dirlink"), os.Symlink("plain", dir+"/s/filelink"), os.Symlink("full", dir+"/d/todir"), os.Symlink("old", dir+"/d/tofile"),
		os.Symlink("fresh", dir+"/d/tonone"), os.WriteFile(dir+"/d/full/sub", nil, 0o600), syscall.Mkfifo(dir+"/s/tree/pipe", 0o600), os.Chmod(dir+"/s/plain", fs.ModeSetuid|0o751),
		os.Chown(dir+"/s/plain", 7, 8), os.Mkdir(dir+"/s/tree/closed", 0o500), os.Chmod(dir+"/s/tree/closed", fs.ModeSticky|0o500),
		os.Chtimes(dir+"/s/plain", then, then), os.Chtimes(dir+"/s/tree/closed", then, then), os.Chtimes(dir+"/s/tree/sub/file", then, then)); err != nil {
		t.Fatal(err)
	}
}

// listing describes every file below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d", strings.TrimPrefix(path, dir), info.Mode(), stat.Uid, stat.Gid)
		if info.ModTime().Year() < 2000 { // one that sources has set
			fmt.Fprintf(&b, " %v", info.ModTime())
		}
		switch {
		case info.Mode().IsRegular():
			if first[stat.Ino] == "" {
				first[stat.Ino] = strings.TrimPrefix(path, dir)
			}
			fmt.Fprintf(&b, " %q of %s", readText(t, path), first[stat.Ino])
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			b.WriteString(" to " + target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestCopyRules copies every kind of source to every kind of destination, in both directions, with both clients: the
// trees that come out and whether it fails are the same.
func TestCopyRules(t *testing.T) {
	for _, client := range copiers {
		for _, place := range []string{"host", "box"} {
			if err := os.MkdirAll(filepath.Join(shared.dir, "rules", client, place), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		must(t, command("gantry", shared, "run", "-d", "--name", "rules-"+client, "-v", filepath.Join(shared.dir, "rules", client, "box")+":/box", "toolbox", "sleep", "1000"))
		defer command("gantry", shared, "rm", "-f", "rules-"+client)
	}
	failed, copied := 0, 0
	for _, flags := range [][]string{{"-a"}, {"-L"}} {
		for _, src := range []string{"tree", "tree/.", "plain", "plain/", "dirlink", "dirlink/", "filelink", "tree/within/", "tree/broken"} {
			for _, dst := range []string{"", "old", "new", "new/", "full/", "todir", "tofile", "tonone", "none/new"} {
				for _, out := range []bool{false, true} {
					trees, codes := map[string]string{}, map[string]result{}
					for _, client := range copiers {
						trees[client], codes[client] = copyRule(t, client, flags, src, dst, out)
					}
					g, d := codes["gantry"], codes["docker"]
					if g.code != d.code || g.code == 0 && trees["gantry"] != trees["docker"] {
						t.Errorf("%v %s to %q, out %v: exit %d: %s\n%s\nwant exit %d: %s\n%s", flags, src, dst, out, g.code, g.err, trees["gantry"], d.code, d.err, trees["docker"])
					}
					if g.code == 0 {
						copied++
					} else {
						failed++
					}
				}
			}
		}
	}
	if copied < 100 || failed < 50 {
		t.Errorf("%d copies, %d failures", copied, failed)
	}
}

// copyRule makes one copy, out of the container or into it, and describes the destination.
func copyRule(t *testing.T, client string, flags []string, src, dst string, out bool) (string, result) {
	base := filepath.Join(shared.dir, "rules", client)
	for _, place := range []string{"host", "box"} {
		for _, part := range []string{"s", "d"} {
			if err := os.RemoveAll(filepath.Join(base, place, part)); err != nil {
				t.Fatal(err)
			}
		}
		sources(t, filepath.Join(base, place))
	}
	from, to, result := base+"/host/s/"+src, "rules-"+client+":/box/d/"+dst, base+"/box/d"
	if out {
		from, to, result = "rules-"+client+":/box/s/"+src, base+"/host/d/"+dst, base+"/host/d"
	}
	r := command(client, shared, append(append([]string{"cp"}, flags...), from, to)...)
	return listing(t, result), r
}
