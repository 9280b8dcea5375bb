package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// layers are the unpacked layers: DIR/<hex of the diff id>/fs, and beside fs the file size. A layer is unpacked into
// DIR/tmp-… and renamed when it is whole and verified.
type layers struct {
	dir     string
	bytes   int64
	entries int64

	mu    sync.Mutex // guards known
	known map[digest.Digest]layer
}

type layer struct {
	size   int64
	opaque bool // it hides all layers below it; overlay does not look for that at a layer's root
}

func openLayers(dir string, o Options) (*layers, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { // set-user-ID files and devices of images are in there
		return nil, fmt.Errorf("open layers: %w", err)
	}
	l := &layers{dir: dir, bytes: o.MaxLayerBytes, entries: o.MaxLayerEntries, known: map[digest.Digest]layer{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	for _, e := range entries {
		id := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		text, err := os.ReadFile(filepath.Join(dir, e.Name(), "size"))
		if id.Validate() != nil || err != nil { // half made, or half removed
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove an unfinished layer: %w", err)
			}
			continue
		}
		size, _ := strconv.ParseInt(string(text), 10, 64) // an unreadable size counts as none
		l.known[id] = layer{size, isOpaque(l.fs(id))}
	}
	return l, nil
}

func (l *layers) path(id digest.Digest) string { return filepath.Join(l.dir, id.Encoded()) }
func (l *layers) fs(id digest.Digest) string   { return filepath.Join(l.path(id), "fs") }

func (l *layers) has(id digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, found := l.known[id]
	return found
}

func (l *layers) opaque(id digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[id].opaque
}

func (l *layers) size(id digest.Digest) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[id].size
}

func (l *layers) ids() []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]digest.Digest, 0, len(l.known))
	for id := range l.known {
		list = append(list, id)
	}
	return list
}

// unpacked is a layer that is whole, but not in its place yet.
type unpacked struct {
	layers *layers
	dir    string
	id     digest.Digest
	size   int64
}

// unpack decompresses and unpacks a stream and reads it to its end. The outcome is checked against the diff id.
func (l *layers) unpack(ctx context.Context, id digest.Digest, stream io.Reader) (_ *unpacked, err error) {
	if err := id.Validate(); err != nil || id.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("diff id %q: want sha256: %w", id, errdefs.ErrInvalidArgument)
	}
	dir, err := os.MkdirTemp(l.dir, "tmp-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	root := filepath.Join(dir, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chmod(root, 0o755); err != nil { // whatever the umask is
		return nil, err
	}
	plain, err := decompress(stream)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	hash := sha256.New()
	counted := &bounded{ctx: ctx, r: io.TeeReader(plain, hash), limit: l.bytes}
	u := &unpacker{entries: l.entries, left: l.bytes}
	if err := u.unpack(root, counted); err != nil {
		return nil, err
	}
	for _, rest := range []io.Reader{counted, stream} { // padding, and what the compression appends
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return nil, err
		}
	}
	if got := digest.NewDigest(digest.SHA256, hash); got != id {
		return nil, fmt.Errorf("unpacked digest mismatch: got %s, the image's configuration says %s: %w", got, id, errdefs.ErrInvalidArgument)
	}
	return &unpacked{layers: l, dir: dir, id: id, size: u.bytes}, nil
}

// commit puts the layer in its place, durably; one that is there already wins. It leaves nothing behind if it fails.
func (u *unpacked) commit() error {
	if u.layers.has(u.id) {
		return u.discard()
	}
	if err := u.place(); err != nil {
		return errors.Join(fmt.Errorf("store layer %s: %w", u.id, err), u.discard())
	}
	return nil
}

func (u *unpacked) place() error {
	if err := os.WriteFile(filepath.Join(u.dir, "size"), []byte(strconv.FormatInt(u.size, 10)), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(u.dir, 0o711); err != nil {
		return err
	}
	if err := syncFS(u.dir); err != nil {
		return err
	}
	if err := os.Rename(u.dir, u.layers.path(u.id)); err != nil {
		if errors.Is(err, os.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
			return u.discard()
		}
		return err
	}
	opaque := isOpaque(u.layers.fs(u.id))
	u.layers.mu.Lock()
	u.layers.known[u.id] = layer{u.size, opaque}
	u.layers.mu.Unlock()
	return syncDir(u.layers.dir)
}

func (u *unpacked) discard() error { return os.RemoveAll(u.dir) }

// take removes a layer from its place; the caller deletes the returned directory.
func (l *layers) take(id digest.Digest) (gone string, size int64, err error) {
	if gone, err = os.MkdirTemp(l.dir, "tmp-"); err != nil {
		return "", 0, fmt.Errorf("remove layer %s: %w", id, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.Rename(l.path(id), filepath.Join(gone, "layer")); err != nil && !os.IsNotExist(err) {
		return "", 0, errors.Join(fmt.Errorf("remove layer %s: %w", id, err), os.Remove(gone))
	}
	size = l.known[id].size
	delete(l.known, id)
	return gone, size, nil
}

// syncDir writes the names in a directory to disk.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncFS writes the file system of a directory to disk: one call for all files of a layer; see syncfs(2).
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// bounded is a reader that ends with an error past a number of bytes, or when ctx ends.
type bounded struct {
	ctx   context.Context
	r     io.Reader
	limit int64
	read  int64
	watch func(read int64) error // may be nil
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	b.read += int64(n)
	if b.read > b.limit {
		return n, fmt.Errorf("more than %d bytes, the limit for what is unpacked: %w", b.limit, errdefs.ErrInvalidArgument)
	}
	if b.watch != nil {
		if err := b.watch(b.read); err != nil {
			return n, err
		}
	}
	return n, err
}

// maxWindow bounds the memory of unpacking zstd: what the zstd program takes too, unless it is told to take more.
const maxWindow = 128 << 20

// decompress recognises gzip, zstd and plain tar by their first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	magic := make([]byte, 4)
	n, err := io.ReadFull(r, magic)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil, err
	}
	whole := io.MultiReader(bytes.NewReader(magic[:n]), r)
	switch {
	case n >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := gzip.NewReader(whole)
		if err != nil {
			return nil, fmt.Errorf("decompress: %w", err)
		}
		return z, nil
	case n == 4 && magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd:
		z, err := zstd.NewReader(whole, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("decompress: %w", err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(whole), nil
}
