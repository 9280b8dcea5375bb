package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// TestSweepAtOpen: whatever a killed process left of transfers is gone when the store opens: directories without
// files, blobs in their places that were not recorded.
func TestSweepAtOpen(t *testing.T) {
	ctx, root := context.Background(), t.TempDir()
	s, err := Open(ctx, Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, []string{"app:1"}, tarOf(t, file("a", "x")))), nil)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	ingest := filepath.Join(root, "content", "ingest")
	unrecorded := filepath.Join(root, "content", "blobs", "sha256", digest.FromString("lost").Encoded())
	for _, name := range []string{"empty", "half/ref", "whole/data"} {
		path := filepath.Join(ingest, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "empty" {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, []byte("x"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(unrecorded, []byte("lost"), 0o600), os.WriteFile(filepath.Join(root, "embedded.new"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, Options{Root: root})
	if left, err := os.ReadDir(ingest); err != nil || len(left) != 0 {
		t.Errorf("ingests left: %v, %v", left, err)
	}
	if _, err := os.Stat(unrecorded); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a blob that the metadata does not know: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "embedded.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished mark: %v", err)
	}
	if img, err := s.Get(ctx, "app:1", nil); err != nil || img.ID != list[0].ID {
		t.Errorf("%v, %v", img, err)
	}
	if err := s.Collect(ctx); err != nil {
		t.Error(err)
	}
}

// TestSweepAfterFailure: what the content store leaves behind when it fails is removed once no transfer is under way,
// and not before.
func TestSweepAfterFailure(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	ingest := filepath.Join(s.o.Root, "content", "ingest")
	if err := os.MkdirAll(ingest, 0o700); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	began, finish := make(chan struct{}), make(chan struct{})
	var group errgroup.Group
	group.Go(func() error { // another transfer, which succeeds
		return s.leased(ctx, func(context.Context) error {
			if err := os.Mkdir(filepath.Join(ingest, "busy"), 0o700); err != nil {
				return err
			}
			close(began)
			<-finish
			_, err := os.Stat(filepath.Join(ingest, "busy"))
			return err
		})
	})
	<-began
	if err := s.leased(ctx, func(context.Context) error {
		return errors.Join(os.Mkdir(filepath.Join(ingest, "failed"), 0o700), full)
	}); !errors.Is(err, full) {
		t.Error(err)
	}
	close(finish)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(ingest); err != nil || len(left) != 0 {
		t.Errorf("ingests left: %v, %v", left, err)
	}
}

// TestSweepFullDisk: pulls and loads that fail for want of space leave nothing.
func TestSweepFullDisk(t *testing.T) {
	s := newStore(t, Options{})
	ingest := filepath.Join(s.o.Root, "content", "ingest")
	if err := os.RemoveAll(ingest); err != nil {
		t.Fatal(err)
	}
	if err := mountTiny(t, ingest); err != nil {
		t.Skipf("a small file system is needed: %v", err)
	}
	archive := dockerArchive(t, []string{"app:1"}, tarOf(t, file("a", strings.Repeat("x", 1<<20))))
	if _, err := s.Load(context.Background(), bytes.NewReader(archive), nil); err == nil {
		t.Error("there was space enough")
	}
	if left, err := os.ReadDir(ingest); err != nil || len(left) != 0 {
		t.Errorf("ingests left: %v, %v", left, err)
	}
	if names := namesIn(t, s); len(names) != 0 {
		t.Errorf("named: %v", names)
	}
}

// mountTiny mounts a file system on a new directory that a few small files fill, by bytes and by number.
func mountTiny(t *testing.T, dir string) error {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k,nr_inodes=6"); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return nil
}
