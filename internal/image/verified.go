package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// verified is a blob as it comes: at its end, it is what the descriptor says or an error, which stays.
type verified struct {
	r    io.Reader
	desc ocispec.Descriptor
	hash digest.Digester
	n    int64
	err  error // what is wrong with the blob
}

func (v *verified) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.n += int64(n)
	_, _ = v.hash.Hash().Write(p[:n]) // never fails: hash.Hash
	switch {
	case v.n > v.desc.Size, errdefs.IsFailedPrecondition(err): // the registry's client looks at the size as well
		v.err = fmt.Errorf("more than the %d bytes that its descriptor says: %w", v.desc.Size, errdefs.ErrInvalidArgument)
	case errors.Is(err, io.ErrUnexpectedEOF):
		v.err = fmt.Errorf("the transfer broke off after %d of %d bytes: %w: %w", v.n, v.desc.Size, err, errdefs.ErrUnavailable)
	case err == io.EOF && v.n < v.desc.Size:
		v.err = fmt.Errorf("truncated: got %d of %d bytes: %w: %w", v.n, v.desc.Size, io.ErrUnexpectedEOF, errdefs.ErrDataLoss)
	case err == io.EOF && v.hash.Digest() != v.desc.Digest:
		v.err = fmt.Errorf("digest mismatch: got %s: %w", v.hash.Digest(), errdefs.ErrInvalidArgument)
	}
	if v.err != nil {
		return n, v.err
	}
	return n, err
}

// blame tells why a consumer of the blob failed. Content that makes no sense is the fault of a blob that is not the one
// that was asked for, if it is not: its rest is read to find out, unless the failure was this machine's.
func (v *verified) blame(ctx context.Context, err error) error {
	var local syscall.Errno
	if err == nil || ctx.Err() != nil || v.err == nil && errors.As(err, &local) {
		return err
	}
	_, _ = io.Copy(io.Discard, v) // its error is v.err, or one of reading, which explains nothing
	if v.err != nil {
		return v.err
	}
	return err
}
