package shim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gantry/internal/shim/client"
	"gantry/oci"
)

// Invocation is how containerd runs a shim's binary; see containerd's core/runtime/v2/README.md. The working directory
// is the bundle.
type Invocation struct {
	Namespace string // -namespace
	Address   string // -address: of containerd
	ID        string // -id
}

// options are those of the one supervisor for all containers of a containerd and namespace.
func (i Invocation) options() (client.Options, error) {
	self, err := os.Executable()
	if err != nil {
		return client.Options{}, err
	}
	sum := sha256.Sum256([]byte(i.Address + "\x00" + i.Namespace))
	dir := filepath.Join("/run/containerd-shim-gantry", hex.EncodeToString(sum[:8])) // short: a socket's path has 108 bytes
	return client.Options{
		Binary: self, Namespace: i.Namespace, Dir: dir, Runtime: filepath.Join(dir, "runtime"), Events: os.Getenv("TTRPC_ADDRESS"),
	}, nil
}

// Start starts the supervisor, unless it runs, and returns its address, which it also leaves in the bundle.
func (i Invocation) Start(ctx context.Context) (string, error) {
	o, err := i.options()
	if err != nil {
		return "", err
	}
	s, _, err := client.Connect(ctx, o)
	if err != nil {
		return "", err
	}
	address := "unix://" + filepath.Join(o.Dir, client.TaskSocket)
	return address, errors.Join(os.WriteFile("address", []byte(address), 0o600), s.Close())
}

// Delete removes what is left of a container whose supervisor cannot be reached, and returns the encoded DeleteResponse.
func (i Invocation) Delete(ctx context.Context) ([]byte, error) {
	o, err := i.options()
	if err != nil {
		return nil, err
	}
	c, err := (&oci.Runtime{Root: o.Runtime}).Load(i.ID)
	if err == nil {
		err = c.Delete(ctx, true)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("delete container %s: %w", i.ID, err)
	}
	return proto.Marshal(&task.DeleteResponse{ExitStatus: 137, ExitedAt: timestamppb.New(time.Now())})
}
