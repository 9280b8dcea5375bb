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
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options configure a store.
type Options struct {
	Root string // directory; created 0711
	// Mirrors maps a registry host to the base URLs that are tried before it; Insecure lists hosts (host[:port], CIDR)
	// that may be spoken to over plain HTTP or unverified TLS. Loopback addresses always may.
	Mirrors  map[string][]string
	Insecure []string
	// MaxUnpacked bounds one layer's unpacked bytes and entries; zero: defaults.
	MaxLayerBytes, MaxLayerEntries int64
}

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

// Removed is what Remove did, in order: one name untagged, or one ID deleted.
type Removed struct{ Untagged, Deleted string }
