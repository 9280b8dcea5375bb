// Package toolbox carries the image that is built into gantryd: a shell and core utilities in Go, so that the first
// container needs no registry.
package toolbox

import (
	"embed"
	"errors"
	"io/fs"
)

//go:embed embed
var files embed.FS

// Name is the image's reference.
const Name = "docker.io/library/toolbox:latest"

// Archive is the image as an OCI archive; ErrNotBuilt if this program was built without it (make build embeds it).
func Archive() ([]byte, error) {
	data, err := files.ReadFile("embed/toolbox.tar")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotBuilt
	}
	return data, err
}

// ErrNotBuilt tells that the image is not in this program.
var ErrNotBuilt = errors.New("the toolbox image is not embedded: build with make")
