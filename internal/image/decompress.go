package image

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory for decompressing zstd and xz: what the zstd program takes too, unless it is told to take
// more, and twice of what xz -9 needs.
const maxWindow = 128 << 20

// compressions are the formats that layers and archives may have, by the bytes that they begin with.
var compressions = []struct {
	name  string
	magic string
	open  func(io.Reader) (io.ReadCloser, error)
}{
	{"gzip", "\x1f\x8b", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"bzip2", "BZh", func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
	{"xz", "\xfd7zXZ\x00", func(r io.Reader) (io.ReadCloser, error) {
		z, err := xz.NewReader(r, maxWindow)
		return io.NopCloser(z), err
	}},
	{"zstd", "\x28\xb5\x2f\xfd", func(r io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}},
}

// foreign are formats that are recognized only to be named in an error.
var foreign = []struct{ name, magic string }{
	{"lz4", "\x04\x22\x4d\x18"},
	{"lzip", "LZIP"},
	{"lzma", "\x5d\x00\x00"},
	{"7z", "7z\xbc\xaf\x27\x1c"},
	{"zip", "PK\x03\x04"},
	{"compress", "\x1f\x9d"},
}

const longestMagic = 6

// decompress recognizes gzip, bzip2, xz, zstd and plain tar by their first bytes. Errors of the returned reader name the
// compression.
func decompress(r io.Reader) (io.ReadCloser, error) {
	magic := make([]byte, longestMagic)
	n, err := io.ReadFull(r, magic)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil, err
	}
	magic = magic[:n]
	source := &source{r: io.MultiReader(bytes.NewReader(magic), r)}
	for _, c := range compressions {
		if !bytes.HasPrefix(magic, []byte(c.magic)) {
			continue
		}
		z, err := c.open(source)
		if err != nil {
			return nil, source.blame(c.name, err)
		}
		return &decompressor{z, source, c.name}, nil
	}
	for _, f := range foreign {
		if bytes.HasPrefix(magic, []byte(f.magic)) {
			return nil, fmt.Errorf("compressed with %s, which is not supported: use gzip, bzip2, xz, zstd, or a plain tar: %w", f.name, errdefs.ErrInvalidArgument)
		}
	}
	return io.NopCloser(source), nil
}

// source remembers the error of the compressed stream itself, which is not the compression's fault.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// compressionError is what is wrong with compressed data.
type compressionError struct {
	name, what string
	err        error
}

func (e *compressionError) Error() string {
	return fmt.Sprintf("the %s data is %s: %v", e.name, e.what, e.err)
}

func (e *compressionError) Unwrap() []error { return []error{e.err, errdefs.ErrInvalidArgument} }

// isTrailing tells that the data is whole, but something else follows it.
func isTrailing(err error) bool {
	return errors.Is(err, gzip.ErrHeader) || errors.Is(err, xz.ErrFormat) || errors.Is(err, zstd.ErrMagicMismatch)
}

// blame names the compression in an error of what it decodes.
func (s *source) blame(name string, err error) error {
	if s.err != nil {
		return s.err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, xz.ErrBuf) {
		return &compressionError{name, "truncated", io.ErrUnexpectedEOF}
	}
	return &compressionError{name, "damaged", err}
}

type decompressor struct {
	io.ReadCloser
	source *source
	name   string
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = d.source.blame(d.name, err)
	}
	return n, err
}
