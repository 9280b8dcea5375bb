package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// layers are the unpacked layers: DIR/<key>/fs, and beside fs the file size. The key is the hex of the diff id; or, if the
// layer has implied directories and therefore depends on those below, of the chain id, and the file size says so. A layer
// is unpacked into DIR/tmp-… and renamed when it is whole and verified.
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

	dependent bool // its key is a chain id
}

// dependentMark follows the size of a layer that depends on those below it.
const dependentMark = " dependent"

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
		number, dependent := strings.CutSuffix(string(text), dependentMark)
		size, _ := strconv.ParseInt(number, 10, 64) // an unreadable size counts as none
		l.known[id] = layer{size, isOpaque(l.fs(id)), dependent}
	}
	return l, nil
}

func (l *layers) path(id digest.Digest) string { return filepath.Join(l.dir, id.Encoded()) }
func (l *layers) fs(id digest.Digest) string   { return filepath.Join(l.path(id), "fs") }

// has reports whether the directory of a key is here.
func (l *layers) has(key digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, found := l.known[key]
	return found
}

// keys are the keys of an image's layers, given by their diff ids from the lowest; "" for those that are not here.
func (l *layers) keys(ids []digest.Digest) []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := make([]digest.Digest, len(ids))
	var chains []digest.Digest
	for i, id := range ids {
		if own, found := l.known[id]; found && !own.dependent {
			keys[i] = id
			continue
		}
		if chains == nil {
			chains = chainsOf(ids)
		}
		if own, found := l.known[chains[i]]; found && own.dependent {
			keys[i] = chains[i]
		}
	}
	return keys
}

// key is the key of the topmost of some layers, or "".
func (l *layers) key(ids []digest.Digest) digest.Digest {
	keys := l.keys(ids)
	return keys[len(keys)-1]
}

// chainsOf are the chain ids of layers, from the lowest: the layer and all those below it.
func chainsOf(ids []digest.Digest) []digest.Digest { return identity.ChainIDs(slices.Clone(ids)) }

// stack is the directories of layers, given by their diff ids from the lowest, for overlay: topmost first, down to one
// that hides all below it. missing is the first that is not here, or "".
func (l *layers) stack(ids []digest.Digest) (dirs []string, missing digest.Digest) {
	for i, key := range slices.Backward(l.keys(ids)) {
		if key == "" {
			return nil, ids[i]
		}
		dirs = append(dirs, l.fs(key))
		if l.opaque(key) {
			break
		}
	}
	return dirs, ""
}

func (l *layers) dependent(key digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[key].dependent
}

func (l *layers) opaque(key digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[key].opaque
}

func (l *layers) size(key digest.Digest) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[key].size
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
	key    digest.Digest // the diff id; of a dependent layer, the chain id once it is complete
	size   int64

	dependent, unresolved bool
	implied               []implied
}

func (u *unpacked) fs() string { return filepath.Join(u.dir, "fs") }

// unpack decompresses and unpacks a stream and reads it to its end. The outcome is checked against the diff id. It is
// unpacked onto the layers below, or, if these are nil, without knowing them: a dependent layer is to be completed then.
func (l *layers) unpack(ctx context.Context, id digest.Digest, stream io.Reader, below *lower) (_ *unpacked, err error) {
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
	u := &unpacker{entries: l.entries, left: l.bytes, lower: below}
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
	return &unpacked{layers: l, dir: dir, key: id, size: u.bytes, dependent: u.dependent, unresolved: u.unresolved, implied: u.implied}, nil
}

// commit puts the layer in its place, durably; one that is there already wins. It leaves nothing behind if it fails.
func (u *unpacked) commit() error {
	if u.layers.has(u.key) {
		return u.discard()
	}
	if err := u.place(); err != nil {
		return errors.Join(fmt.Errorf("store layer %s: %w", u.key, err), u.discard())
	}
	return nil
}

func (u *unpacked) place() error {
	size := strconv.FormatInt(u.size, 10)
	if u.dependent {
		size += dependentMark
	}
	if err := os.WriteFile(filepath.Join(u.dir, "size"), []byte(size), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(u.dir, 0o711); err != nil {
		return err
	}
	if err := syncFS(u.dir); err != nil {
		return err
	}
	if err := os.Rename(u.dir, u.layers.path(u.key)); err != nil {
		if errors.Is(err, os.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
			return u.discard()
		}
		return err
	}
	opaque := isOpaque(u.layers.fs(u.key))
	u.layers.mu.Lock()
	u.layers.known[u.key] = layer{u.size, opaque, u.dependent}
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
