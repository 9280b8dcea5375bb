package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// unfinished lists what is in the layers' directory but no layer: what was begun and not finished.
func unfinished(t testing.TB, s *Store) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(s.layers.dir, "tmp-*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestOpenTwice: the second engine on a root leaves alone what the first is unpacking.
func TestOpenTwice(t *testing.T) {
	s := newStore(t, Options{})
	busy := filepath.Join(s.layers.dir, "tmp-busy")
	if err := os.Mkdir(busy, 0o700); err != nil {
		t.Fatal(err)
	}
	if other, err := Open(context.Background(), Options{Root: s.o.Root}); err == nil {
		t.Error("a second store was opened", other.Close())
	}
	if _, err := os.Stat(busy); err != nil {
		t.Errorf("what the first store unpacks: %v", err)
	}
}

// TestOpenAfterCrash: what a crash leaves is gone when the store opens, and what was whole is there.
func TestOpenAfterCrash(t *testing.T) {
	ctx, r, root := context.Background(), newRegistry(t), t.TempDir()
	r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
	s, err := Open(ctx, Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A crash while a blob was written and another layer unpacked, and while a layer was removed.
	ns := inNamespace(ctx)
	lease, err := s.leases.Create(ns, func(l *leases.Lease) error { l.ID = "stale"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.content.Writer(leases.WithLease(ns, lease.ID), content.WithRef("half"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tmp-1/fs/a", "tmp-2/layer/fs/a", strings.Repeat("ab", 32) + "/fs", "nonsense/fs"} {
		if err := os.MkdirAll(filepath.Join(root, "layers", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s = newStore(t, Options{Root: root})
	if entries, err := os.ReadDir(s.layers.dir); err != nil || len(entries) != 1 || entries[0].Name() != img.Layers[0].Encoded() {
		t.Errorf("layers: %v, %v", entries, err)
	}
	if open, err := s.content.ListStatuses(ns); err != nil || len(open) != 0 {
		t.Errorf("unfinished blobs: %v, %v", open, err)
	}
	if list, err := s.leases.List(ns); err != nil || len(list) != 0 {
		t.Errorf("leases: %v, %v", list, err)
	}
	if err := s.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Get(ctx, r.host()+"/app:1", nil); err != nil || again.Size != img.Size || !slices.Equal(again.Layers, img.Layers) {
		t.Errorf("the image: %+v, %v", again, err)
	}
}

// TestFirstCallerGivesUp: of two that pull the same, the second gets the image though the first went away.
func TestFirstCallerGivesUp(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	target := r.build(t, here, tarOf(t, file("a", strings.Repeat("x", 1<<16))))
	r.tag("app:1", target)
	first, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	var once sync.Once
	began := make(chan struct{})
	r.setHook(func(_ http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/blobs/") {
			once.Do(func() {
				close(began)
				<-q.Context().Done() // the first asks, and gets nothing
			})
		}
		return false
	})
	errs := make(chan error, 1)
	go func() {
		_, err := s.Pull(first, r.host()+"/app:1", PullOptions{})
		errs <- err
	}()
	<-began
	var group errgroup.Group
	group.Go(func() error {
		_, err := s.Pull(context.Background(), r.host()+"/app:1", PullOptions{})
		return err
	})
	time.Sleep(20 * time.Millisecond) // so that the second does wait, mostly
	giveUp()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	if err := group.Wait(); err != nil {
		t.Errorf("the second: %v", err)
	}
	if err := s.Collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	if img, err := s.Get(context.Background(), r.host()+"/app:1", nil); err != nil {
		t.Error(err)
	} else if _, err := s.Rootfs(context.Background(), img); err != nil {
		t.Error(err)
	}
}

// TestSharedWithFailing: a layer that a failing pull fetched, and another pull counts on, outlives the failure.
func TestSharedWithFailing(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	shared := tarOf(t, file("shared", "x"))
	good, bad := r.build(t, here, shared, tarOf(t, file("good", "x"))), r.build(t, here, shared, tarOf(t, file("bad", "x")))
	r.tag("good:1", good)
	r.tag("bad:1", bad)
	layersOf := func(text []byte) []string {
		var m struct{ Layers []struct{ Digest string } }
		decode(t, text, &m)
		return []string{m.Layers[0].Digest, m.Layers[1].Digest}
	}
	common, own := layersOf(r.blobs[good.Digest])[0], layersOf(r.blobs[good.Digest])[1]
	missing := layersOf(r.blobs[bad.Digest])[1]
	goodGoes, badFailed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.setHook(func(w http.ResponseWriter, q *http.Request) bool {
		switch {
		case strings.HasSuffix(q.URL.Path, missing): // fails once the other has taken up the shared layer
			<-goodGoes
			http.NotFound(w, q)
			return true
		case strings.HasSuffix(q.URL.Path, own):
			once.Do(func() { close(goodGoes) })
			<-badFailed
		}
		return false
	})
	var group errgroup.Group
	sharedIsHere := make(chan struct{})
	group.Go(func() error {
		defer close(badFailed)
		_, err := s.Pull(ctx, r.host()+"/bad:1", PullOptions{Progress: func(p Progress) {
			if strings.HasPrefix(common, "sha256:"+p.ID) && p.Status == "Pull complete" {
				close(sharedIsHere)
			}
		}})
		if !errdefs.IsNotFound(err) {
			return fmt.Errorf("the bad image: %w", err)
		}
		return s.Collect(ctx)
	})
	<-sharedIsHere
	if _, err := s.Pull(ctx, r.host()+"/good:1", PullOptions{}); err != nil {
		t.Error(err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	blobs, err := s.blobs(inNamespace(ctx))
	if err != nil || len(blobs) != 4 {
		t.Errorf("blobs of the good image: %v, %v", blobs, err)
	}
}

// TestHoldRemoved: who holds an image that is gone is told so, and who holds one in time keeps all of it.
func TestHoldRemoved(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
	for i := range 20 {
		img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var group errgroup.Group
		var held, removed error
		group.Go(func() error { held = s.Hold(ctx, "c", img); return nil })
		group.Go(func() error { _, removed = s.Remove(ctx, img.ID.String(), false); return nil })
		_ = group.Wait() // both return nil
		if (held == nil) == (removed == nil) || held != nil && !errdefs.IsNotFound(held) {
			t.Fatalf("round %d: hold: %v, remove: %v", i, held, removed)
		}
		if held == nil {
			if _, err := s.Rootfs(ctx, img); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
		}
		if err := s.Release(ctx, "c"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGetRemoved: an image that is removed while it is read was removed, not damaged.
func TestGetRemoved(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
	img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	target, err := s.find(img.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(ctx, img.ID.String(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.resolve(ctx, target, nil); !errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		t.Errorf("%v", err)
	}
}

// TestCollectDuringPulls: the collector takes nothing that a pull counts on, and all that nobody needs.
func TestCollectDuringPulls(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	shared := tarOf(t, file("shared", "x"))
	const images = 4
	for i := range images {
		r.tag(fmt.Sprintf("app%d:1", i), r.build(t, here, shared, tarOf(t, file("own", fmt.Sprint(i)))))
	}
	stop := make(chan struct{})
	var collector, pulls errgroup.Group
	collector.Go(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
				if err := s.Collect(ctx); err != nil {
					return err
				}
			}
		}
	})
	for i := range images {
		pulls.Go(func() error {
			ref := fmt.Sprintf("%s/app%d:1", r.host(), i)
			for range 5 {
				img, err := s.Pull(ctx, ref, PullOptions{})
				if err != nil {
					return err
				}
				if err := s.Hold(ctx, ref, img); err != nil {
					return err
				}
				dirs, err := s.Rootfs(ctx, img)
				if err != nil {
					return err
				}
				if text, err := os.ReadFile(filepath.Join(dirs[0], "own")); string(text) != fmt.Sprint(i) {
					return fmt.Errorf("%q: %w", text, err)
				}
				if err := s.Release(ctx, ref); err != nil {
					return err
				}
				if _, err := s.Remove(ctx, ref, false); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := pulls.Wait(); err != nil {
		t.Error(err)
	}
	close(stop)
	if err := errors.Join(collector.Wait(), s.Collect(ctx)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.layers.dir); err != nil || len(left) != 0 {
		t.Errorf("layers left: %v, %v", left, err)
	}
	if blobs, err := s.blobs(inNamespace(ctx)); err != nil || len(blobs) != 0 {
		t.Errorf("blobs left: %v, %v", blobs, err)
	}
}

// TestCommitFails: a layer that cannot be put in its place leaves nothing, and its removal that fails loses nothing.
func TestCommitFails(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	plain := tarOf(t, file("a", "x"))
	whole, err := s.layers.unpack(ctx, digest.FromBytes(plain), strings.NewReader(string(plain)), nil)
	if err != nil {
		t.Fatal(err)
	}
	inTheWay := s.layers.path(whole.key)
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := whole.commit(); err == nil || !strings.Contains(err.Error(), whole.key.String()) {
		t.Errorf("commit over a file: %v", err)
	}
	if left := unfinished(t, s); len(left) != 0 || s.layers.has(whole.key) {
		t.Errorf("left: %v", left)
	}
}

func TestTakeFails(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	plain := tarOf(t, file("a", "four"))
	whole, err := s.layers.unpack(ctx, digest.FromBytes(plain), strings.NewReader(string(plain)), nil)
	if err == nil {
		err = whole.commit()
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := s.layers.dir
	s.layers.dir = filepath.Join(dir, "none") // renaming fails
	if _, _, err := s.layers.take(whole.key); err == nil {
		t.Error("took a layer to nowhere")
	}
	s.layers.dir = dir
	if !s.layers.has(whole.key) || s.layers.size(whole.key) != 4 {
		t.Errorf("the layer is forgotten: size %d", s.layers.size(whole.key))
	}
	// A second removal, while what is left of the first is still being deleted.
	for range 2 {
		gone, size, err := s.layers.take(whole.key)
		if err != nil || size != 4 || s.layers.has(whole.key) {
			t.Fatalf("take: %q, %d, %v", gone, size, err)
		}
		again, err := s.layers.unpack(ctx, whole.key, strings.NewReader(string(plain)), nil)
		if err == nil {
			err = again.commit()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
