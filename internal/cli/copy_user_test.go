package cli

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestCopyAsOrdinaryUser runs the tests of extraction, and one of what cannot be read, without privileges.
func TestCopyAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		extractReadOnly(t)
		packUnreadable(t)
		return
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "gantry-cp-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestExtract.*|TestCopyAsOrdinaryUser)$", "-test.v") // the path to it may be closed
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// extractReadOnly fills directories that their owner may not write to, or not even enter.
func extractReadOnly(t *testing.T) {
	dst, old := t.TempDir(), time.Unix(1000, 0)
	defer func() { _ = os.Chmod(dst+"/closed", 0o700) }()
	err := extract(archived(t, tar.Header{Typeflag: tar.TypeDir, Name: "closed", Mode: 0o100, ModTime: old}, tar.Header{Typeflag: tar.TypeDir, Name: "closed/in", Mode: 0o555, ModTime: old},
		tar.Header{Typeflag: tar.TypeReg, Name: "closed/in/file", Uid: 0, Mode: 0o400, Linkname: "text"}), dst, same)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"closed": 0o100, "closed/in": 0o555, "closed/in/file": 0o400} {
		info, err := os.Stat(dst + "/" + name)
		if err != nil || info.Mode().Perm() != mode || info.IsDir() && !info.ModTime().Equal(old) {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if err := os.Chmod(dst+"/closed/in", 0o700); err != nil {
		t.Error(err)
	}
}

// packUnreadable archives a tree with a file, then with a directory, that may not be read.
func packUnreadable(t *testing.T) {
	for _, dir := range []bool{false, true} {
		src := t.TempDir()
		err := os.WriteFile(src+"/x", nil, 0)
		if dir {
			err = errors.Join(os.Remove(src+"/x"), os.Mkdir(src+"/x", 0))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := pack(io.Discard, copyPath{path: src, isDir: true}, same, nil); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("what cannot be read: %v", err)
		}
	}
}
