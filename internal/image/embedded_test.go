package image

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"gantry/internal/image/toolbox"
)

// withEmbedded is a store of a program into which an archive is built; nil: none is.
func withEmbedded(t *testing.T, root string, archive []byte) *Store {
	t.Helper()
	s := newStore(t, Options{Root: root})
	s.embeddedArchive = func() ([]byte, error) {
		if archive == nil {
			return nil, toolbox.ErrNotBuilt
		}
		return archive, nil
	}
	return s
}

func toolboxArchive(t *testing.T, content string) []byte {
	t.Helper()
	return dockerArchive(t, []string{toolbox.Name}, tarOf(t, file("a", content)))
}

// TestEmbeddedComesBack: the embedded image is there after it was removed, for everything that asks for it by its name.
func TestEmbeddedComesBack(t *testing.T) {
	ctx := context.Background()
	s := withEmbedded(t, "", toolboxArchive(t, "1"))
	if err := s.EnsureEmbedded(ctx); err != nil {
		t.Fatal(err)
	}
	removals := map[string]func() error{
		"rmi":   func() error { _, err := s.Remove(ctx, "toolbox", false); return err },
		"prune": func() error { _, _, err := s.Prune(ctx, true, nil); return err },
	}
	requests := map[string]func() (*Image, error){
		"run, create, inspect": func() (*Image, error) { return s.Get(ctx, "toolbox", nil) },
		"with its tag":         func() (*Image, error) { return s.Get(ctx, "toolbox:latest", nil) },
		"its full name":        func() (*Image, error) { return s.Get(ctx, "docker.io/library/toolbox:latest", nil) },
		"pull":                 func() (*Image, error) { return s.Pull(ctx, "toolbox", PullOptions{}) },
		"tag":                  func() (*Image, error) { return s.Tag(ctx, "toolbox", "mine:1") },
	}
	for removal, remove := range removals {
		for name, ask := range requests {
			t.Run(removal+", then "+name, func(t *testing.T) {
				if err := remove(); err != nil {
					t.Fatal(err)
				}
				if list, err := s.List(ctx); err != nil || len(list) != 0 {
					t.Fatalf("after the removal: %v, %v", list, err)
				}
				img, err := ask()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Rootfs(ctx, img); err != nil {
					t.Error(err)
				}
				if name == "tag" {
					if _, err := s.Remove(ctx, "mine:1", false); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	if _, err := s.Remove(ctx, "toolbox", false); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"toolbox:1", "mine/toolbox", "toolbox2", "localhost/toolbox"} {
		if img, err := s.Get(ctx, ref, nil); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %+v, %v", ref, img, err)
		}
	}
	if _, err := s.Remove(ctx, "toolbox", true); !errdefs.IsNotFound(err) {
		t.Errorf("removing what was removed: %v", err)
	}
	if id, err := s.ID("toolbox"); !errdefs.IsNotFound(err) {
		t.Errorf("a question about names loaded %s, %v", id, err)
	}
	nothingLeft(t, s)
}

// TestEmbeddedAtStart: what a start of the engine loads.
func TestEmbeddedAtStart(t *testing.T) {
	ctx := context.Background()
	first, second := toolboxArchive(t, "1"), toolboxArchive(t, "2")
	for name, c := range map[string]struct {
		before  func(s *Store) error
		archive []byte
		content string // of the image of that name then; "": there is none
	}{
		"the first start":                {nil, first, "1"},
		"the next start":                 {func(s *Store) error { return s.EnsureEmbedded(ctx) }, first, "1"},
		"a newer program":                {func(s *Store) error { return s.EnsureEmbedded(ctx) }, second, "2"},
		"a program without":              {func(s *Store) error { return s.EnsureEmbedded(ctx) }, nil, "1"},
		"removed":                        {removeEmbedded(ctx), first, ""},
		"removed, and a newer program":   {removeEmbedded(ctx), second, ""},
		"the name is another image's":    {renameEmbedded(t, ctx), first, "own"},
		"the same, and a newer program":  {renameEmbedded(t, ctx), second, "own"},
		"a mark that was cut":            {cutMark(ctx, 10), first, "1"},
		"a mark without the image's ID":  {cutMark(ctx, 65), second, "2"},
		"a mark that is empty":           {cutMark(ctx, 0), second, "2"},
		"an image that lost its content": {func(s *Store) error { return os.WriteFile(s.markPath(), nil, 0o600) }, first, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if c.before != nil {
				s, err := Open(ctx, Options{Root: root})
				if err != nil {
					t.Fatal(err)
				}
				s.embeddedArchive = func() ([]byte, error) { return first, nil }
				if err := errors.Join(c.before(s), s.Close()); err != nil {
					t.Fatal(err)
				}
			}
			s := withEmbedded(t, root, c.archive)
			for range 2 {
				if err := s.EnsureEmbedded(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if !s.hasName(toolbox.Name) {
				if c.content != "" {
					t.Error("it is not there")
				}
				return
			}
			img, err := s.Get(ctx, "toolbox", nil)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(s.layers.fs(img.Layers[0]) + "/a")
			if err != nil || string(text) != c.content {
				t.Errorf("content %q, %v", text, err)
			}
		})
	}
}

func removeEmbedded(ctx context.Context) func(s *Store) error {
	return func(s *Store) error {
		err := s.EnsureEmbedded(ctx)
		_, removeErr := s.Remove(ctx, "toolbox", false)
		return errors.Join(err, removeErr)
	}
}

func renameEmbedded(t *testing.T, ctx context.Context) func(s *Store) error {
	return func(s *Store) error {
		err := s.EnsureEmbedded(ctx)
		_, loadErr := s.Load(ctx, strings.NewReader(string(toolboxArchive(t, "own"))), nil)
		return errors.Join(err, loadErr)
	}
}

func cutMark(ctx context.Context, length int64) func(s *Store) error {
	return func(s *Store) error { return errors.Join(s.EnsureEmbedded(ctx), os.Truncate(s.markPath(), length)) }
}
