package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of an archive beside its blobs, whose bytes are bounded by Options.
const (
	maxArchiveBlobs = 100_000
	maxArchiveExtra = 256 << 20 // headers, names, links: the importer remembers some of them
)

// importing is the content store as one load sees it: its unfinished blobs have names of their own, so that what
// another load, or one that failed, calls the same is not taken for them.
type importing struct {
	content.Store
	prefix string
	stream *bounded
	refs   map[string]bool
	blobs  int64 // bytes in blobs
}

// importArchive stores the blobs of an archive and returns the index of its images.
func (s *Store) importArchive(ctx context.Context, r io.Reader) (ocispec.Descriptor, error) {
	stream := &bounded{ctx: ctx, r: r, limit: 4 * s.o.MaxLayerBytes}
	store := &importing{Store: s.content, prefix: "load-" + digest.FromString(leaseOf(ctx)).Encoded() + "-", stream: stream, refs: map[string]bool{}}
	stream.watch = store.check
	top, err := archive.ImportIndex(ctx, store, stream)
	// The importer stops at the end of the tar stream, or at what it does not understand. If the compressed data is cut or
	// damaged, that is the error.
	if _, restErr := io.Copy(io.Discard, stream); restErr != nil && (err == nil || errors.As(restErr, new(*compressionError))) && !isTrailing(restErr) {
		err = restErr
	}
	for ref := range store.refs {
		if abortErr := s.content.Abort(context.WithoutCancel(ctx), ref); abortErr != nil && !errdefs.IsNotFound(abortErr) {
			err = errors.Join(err, fmt.Errorf("drop unfinished blob %s: %w", ref, abortErr))
		}
	}
	return top, err
}

func (i *importing) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	ref := i.prefix + o.Ref
	if i.refs[ref] = true; len(i.refs) > maxArchiveBlobs {
		return nil, fmt.Errorf("the archive has more than %d blobs: %w", maxArchiveBlobs, errdefs.ErrInvalidArgument)
	}
	w, err := i.Store.Writer(ctx, append(opts, content.WithRef(ref))...)
	if err != nil {
		return nil, err
	}
	return countedWriter{w, &i.blobs}, nil
}

// ReaderAt bounds what the importer reads at once: it takes any file of the archive for a configuration if the archive
// says so. A longer blob is cut, which makes it invalid JSON; the first bytes, which tell a layer's kind, are there.
func (i *importing) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := i.Store.ReaderAt(ctx, desc)
	if err != nil || ra.Size() <= maxConfig {
		return ra, err
	}
	return cutReader{ra}, nil
}

type cutReader struct{ content.ReaderAt }

func (cutReader) Size() int64 { return maxConfig }

// check bounds what is read, but is in no blob.
func (i *importing) check(read int64) error {
	if read-i.blobs > maxArchiveExtra {
		return fmt.Errorf("the archive has more than %d bytes beside its blobs: %w", maxArchiveExtra, errdefs.ErrInvalidArgument)
	}
	return nil
}

type countedWriter struct {
	content.Writer
	n *int64
}

func (w countedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	*w.n += int64(n)
	return n, err
}

// badArchive tells that a failure to load is the archive's fault, unless it is the caller's or this machine's.
// What the archive lacks is not "not found" for whoever loads it.
func badArchive(ctx context.Context, err error) error {
	var local syscall.Errno
	if err == nil || ctx.Err() != nil || errors.As(err, &local) || errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("%v: %w", err, errdefs.ErrInvalidArgument) //nolint:errorlint // the class is another
}
