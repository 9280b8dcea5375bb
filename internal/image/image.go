// Package image keeps images: content-addressed blobs with their metadata and leases (containerd's content and
// metadata stores), unpacked layers (ours), pull, load and garbage collection.
//
// # Layers
//
// Every layer is unpacked into a directory of its own, layers/<diffID>/fs, in one pass with download, verification and
// decompression. A container's root is the overlay of these directories with an upper directory of its own, so
// creating a container is no transaction here: it only asks Rootfs once.
//
// # Who keeps what alive
//
// Blobs and layers live as long as an image name, a lease of a pull under way, or a container (Hold) needs them.
package image

import (
	"context"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is the images of one engine.
type Store struct{}

// Options configure a store.
type Options struct {
	Root string // directory; created 0710
	// Mirrors maps a registry host to the base URLs that are tried before it; Insecure lists hosts (host[:port], CIDR)
	// that may be spoken to over plain HTTP or unverified TLS. Loopback addresses always may.
	Mirrors  map[string][]string
	Insecure []string
	// MaxUnpacked bounds one layer's unpacked bytes and entries; zero: defaults.
	MaxLayerBytes, MaxLayerEntries int64
}

// Open opens the store, removing what an interrupted pull or removal left behind.
func Open(ctx context.Context, o Options) (*Store, error) { panic("contract") }
func (s *Store) Close() error                             { panic("contract") }

// Image is one image: a name's target resolved for one platform. Values are immutable.
type Image struct {
	// ID is the digest of the target (index or manifest), as Docker's containerd image store has it.
	ID         digest.Digest
	Manifest   ocispec.Descriptor // of the platform
	Config     dockerspec.DockerOCIImage
	Names      []string        // "docker.io/library/debian:12", with tag; sorted
	Digests    []string        // "docker.io/library/debian@sha256:…"
	Layers     []digest.Digest // diff ids, lowest first
	Size       int64           // unpacked layers and blobs, bytes
	Created    time.Time
	Platform   ocispec.Platform
	LastTagged time.Time
}

// Auth are the credentials for one registry host, as docker's X-Registry-Auth has them.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken string
}

// Progress is one change of the state of one layer (or of the whole: ID ""), as docker's pull reports it.
type Progress struct {
	ID             string // short id of the layer, or the reference
	Status         string // "Pulling fs layer", "Downloading", "Extracting", "Pull complete", "Already exists", …
	Current, Total int64
}

// PullOptions are how to pull. The zero Platform is the host's.
type PullOptions struct {
	Platform *ocispec.Platform
	Auth     *Auth
	Progress func(Progress) // called from several goroutines
}

// Pull fetches the image that ref ("debian", "registry:5000/app@sha256:…") names and stores it under that name.
// Errors name the reference and the layer; errdefs.ErrNotFound, ErrUnauthenticated, ErrUnavailable classify them.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	panic("contract")
}

// Load imports a docker or OCI archive, optionally compressed, and returns the images in it.
func (s *Store) Load(ctx context.Context, r io.Reader, progress func(Progress)) ([]*Image, error) {
	panic("contract")
}

// Get resolves a reference, an ID or an unambiguous prefix of one for a platform (nil: the host's, or the only one).
func (s *Store) Get(ctx context.Context, refOrID string, platform *ocispec.Platform) (*Image, error) {
	panic("contract")
}

// List returns every image, one value an ID.
func (s *Store) List(ctx context.Context) ([]*Image, error) { panic("contract") }

// Tag makes a further name for an image; an existing name is moved.
func (s *Store) Tag(ctx context.Context, refOrID, name string) (*Image, error) { panic("contract") }

// Removed is what Remove did, in order: one name untagged, or one ID deleted.
type Removed struct{ Untagged, Deleted string }

// Remove removes a name, or by ID all names if there is one or force is set, and collects what nothing holds.
// An image that a container holds loses its name only with force; errdefs.ErrFailedPrecondition otherwise.
func (s *Store) Remove(ctx context.Context, refOrID string, force bool) ([]Removed, error) {
	panic("contract")
}

// Prune collects garbage and, if dangling, every image without a name; all: also those no container holds.
func (s *Store) Prune(ctx context.Context, all bool, keep func(*Image) bool) (removed []Removed, reclaimed int64, err error) {
	panic("contract")
}

// Rootfs returns the image's layer directories for overlay's lowerdir, topmost first. Their content must not be changed.
func (s *Store) Rootfs(ctx context.Context, img *Image) ([]string, error) { panic("contract") }

// Hold keeps an image's blobs and layers while the container (its id) exists; Release lets go. Both are idempotent.
func (s *Store) Hold(ctx context.Context, container string, img *Image) error { panic("contract") }
func (s *Store) Release(ctx context.Context, container string) error          { panic("contract") }

// Holders returns the containers that hold an image, by its ID.
func (s *Store) Holders(ctx context.Context) (map[digest.Digest][]string, error) { panic("contract") }
