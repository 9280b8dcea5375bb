package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/image/toolbox"
)

// EnsureEmbedded loads the image that is built into this program, unless this very one was loaded before. A user who
// removed it since, or gave its name to another image, is not overruled: it comes back when somebody asks for it. A
// program without an embedded image has none to load.
func (s *Store) EnsureEmbedded(ctx context.Context) error {
	archive, err := s.embedded()
	if err != nil || archive == nil {
		return err
	}
	mark := s.readMark()
	if mark.archive == archiveSum(archive) {
		return nil
	}
	if mark.archive != "" { // an earlier program's was loaded
		target, err := s.find(toolbox.Name)
		if err != nil || mark.image != "" && mark.image != target.Digest {
			return s.writeMark(archive, mark.image)
		}
	}
	return s.loadEmbedded(ctx, archive)
}

// embeddedMark says, in the file "embedded", which archive was loaded last, and the image that was in it.
type embeddedMark struct {
	archive string
	image   digest.Digest
}

func (s *Store) markPath() string { return filepath.Join(s.o.Root, "embedded") }

// readMark returns the mark; the zero value if there is none that makes sense.
func (s *Store) readMark() (m embeddedMark) {
	text, err := os.ReadFile(s.markPath())
	if err != nil {
		return m
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	m.archive = lines[0]
	if len(lines) > 1 {
		m.image = digest.Digest(lines[1])
	}
	return m
}

func (s *Store) writeMark(archive []byte, image digest.Digest) error {
	text := archiveSum(archive) + "\n" + image.String() + "\n"
	next := s.markPath() + ".new"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return fmt.Errorf("the embedded image: %w", err)
	}
	if err := os.Rename(next, s.markPath()); err != nil {
		return fmt.Errorf("the embedded image: %w", err)
	}
	return nil
}

func archiveSum(archive []byte) string {
	sum := sha256.Sum256(archive)
	return hex.EncodeToString(sum[:])
}

// embedded is the archive that is built into this program, or nil.
func (s *Store) embedded() ([]byte, error) {
	archive, err := s.embeddedArchive()
	if errors.Is(err, toolbox.ErrNotBuilt) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the embedded image: %w", err)
	}
	return archive, nil
}

func (s *Store) loadEmbedded(ctx context.Context, archive []byte) error {
	list, err := s.Load(ctx, bytes.NewReader(archive), nil)
	if err != nil {
		return fmt.Errorf("the embedded image: %w", err)
	}
	return s.writeMark(archive, list[0].ID)
}

// embeddedFor is the embedded archive if ref is a name of the embedded image, else nil.
func (s *Store) embeddedFor(ref string) ([]byte, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || reference.TagNameOnly(named).String() != toolbox.Name {
		return nil, nil
	}
	return s.embedded()
}

// restoreEmbedded loads the embedded image again if ref is its name and no image bears it. It tells whether ref can be
// found now.
func (s *Store) restoreEmbedded(ctx context.Context, ref string) (bool, error) {
	archive, err := s.embeddedFor(ref)
	if err != nil || archive == nil {
		return false, err
	}
	leave, err := s.flights.board(ctx, "embedded", nil)
	if err != nil {
		return false, err
	}
	defer leave()
	if s.hasName(toolbox.Name) {
		return true, nil
	}
	return true, s.loadEmbedded(ctx, archive)
}

// pullEmbedded is a pull of the embedded image's name: no registry is asked for what is in this program. It returns nil
// if ref is another name, or this program has no embedded image.
func (s *Store) pullEmbedded(ctx context.Context, ref string, platform *ocispec.Platform) (*Image, error) {
	archive, err := s.embeddedFor(ref)
	if err != nil || archive == nil {
		return nil, err
	}
	leave, err := s.flights.board(ctx, "embedded", nil)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.loadEmbedded(ctx, archive); err != nil {
		return nil, err
	}
	target, err := s.find(toolbox.Name)
	if err != nil {
		return nil, err
	}
	return s.resolve(ctx, target, platform)
}
