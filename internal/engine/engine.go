package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gantry/cgroup"
	"gantry/internal/image"
	"gantry/internal/network"
	"gantry/internal/shim/client"
)

// Options configure an engine. Engines with different Root, Run, Bridge, Table and CgroupParent do not meet.
type Options struct {
	Root string // what outlives a reboot: images, containers, volumes
	Run  string // what does not: sockets, bundles; a tmpfs by custom
	Shim string // path of containerd-shim-gantry-v1
	Init string // path of gantry-init

	Bridge, Table string
	Subnet        netip.Prefix // zero: a free one
	Pool          int          // sandboxes kept ready
	CgroupParent  string       // "/gantry"

	Mirrors  map[string][]string
	Insecure []string

	LogOptions map[string]string // json-file's, for containers that do not set them; see CheckLogOptions

	Version string
	Log     *slog.Logger
}

// Engine is the domain: containers, their processes, images, volumes and events of one root directory.
type Engine struct {
	o       Options
	id      string // of this installation, made once
	started time.Time
	log     *slog.Logger

	images *image.Store
	net    *network.Network
	store  *store
	events *bus
	users  identities
	trash  *trash

	ctx    context.Context // ends with Close; background work of containers runs under it
	cancel context.CancelFunc
	work   sync.WaitGroup // that background work

	shimMu sync.Mutex // guards shim
	shim   *client.Shim
	keeper client.Keeper // of what must outlive the supervisor

	mu         sync.Mutex // guards what follows
	containers map[string]*Container
	names      map[string]string // name → container id
	execs      map[string]*execution
	volumes    map[string]*volumeRecord
}

// Buckets of the state database.
const (
	bucketMeta       = "meta"
	bucketContainers = "containers"
	bucketVolumes    = "volumes"
)

// Open starts an engine: it repairs what a killed one left behind, finds the containers that still run, and restarts
// those whose policy asks for it.
func Open(ctx context.Context, o Options) (*Engine, error) {
	for _, dir := range []string{o.Root, o.Run, filepath.Join(o.Root, "containers"), filepath.Join(o.Root, "volumes"), filepath.Join(o.Run, "bundles")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("open engine: %w", err)
		}
	}
	e := &Engine{
		o: o, started: time.Now(), log: o.Log, events: newBus(),
		containers: map[string]*Container{}, names: map[string]string{},
		execs: map[string]*execution{}, volumes: map[string]*volumeRecord{},
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) open(ctx context.Context) (err error) {
	if e.store, err = openStore(filepath.Join(e.o.Root, "engine.db"), bucketMeta, bucketContainers, bucketVolumes); err != nil {
		return err
	}
	if err := e.loadID(ctx); err != nil {
		return err
	}
	if e.trash, err = openTrash(filepath.Join(e.o.Root, "trash"), e.log); err != nil {
		return err
	}
	if e.images, err = image.Open(ctx, image.Options{Root: filepath.Join(e.o.Root, "images"), Mirrors: e.o.Mirrors, Insecure: e.o.Insecure}); err != nil {
		return err
	}
	if _, err := e.supervisor(ctx); err != nil {
		return err
	}
	e.loadVolumes()
	live := e.loadContainers(ctx)
	e.net, err = network.Open(ctx, network.Options{Bridge: e.o.Bridge, Table: e.o.Table, Subnet: e.o.Subnet, Pool: e.o.Pool}, live)
	if err != nil {
		return err
	}
	if err := e.images.EnsureEmbedded(ctx); err != nil {
		// A full disk, for example: containers matter more, and the image is loaded when somebody asks for it.
		e.log.Warn("the embedded image cannot be loaded now", "error", err)
	}
	e.resume(ctx)
	e.background(e.watchOOM)
	return nil
}

// Close ends the engine's work. Containers go on under the supervisor.
func (e *Engine) Close() error {
	e.cancel()
	e.shimMu.Lock()
	shim := e.shim
	e.shimMu.Unlock()
	var errs []error
	if shim != nil {
		errs = append(errs, shim.Close())
	}
	e.work.Wait()
	e.keeper.Close()
	if e.net != nil {
		errs = append(errs, e.net.Close())
	}
	if e.images != nil {
		errs = append(errs, e.images.Close())
	}
	if e.trash != nil {
		e.trash.close()
	}
	if e.store != nil {
		errs = append(errs, e.store.Close())
	}
	return errors.Join(errs...)
}

// Teardown takes away what a stopped engine left on the host for its next start: bridge, nftables table and the cgroup
// above its containers. It fails while a container runs.
func Teardown(ctx context.Context, o Options) error {
	group, err := cgroup.Open(o.CgroupParent)
	if err == nil {
		pids, listErr := group.Procs(true)
		if listErr != nil || len(pids) > 0 {
			return errors.Join(listErr, fmt.Errorf("take the engine away: %d processes of containers still run; remove them first", len(pids)))
		}
		err = group.Delete()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("take the engine away: %w", err)
	}
	n, err := network.Open(ctx, network.Options{Bridge: o.Bridge, Table: o.Table, Subnet: o.Subnet}, nil)
	if err != nil {
		return err
	}
	return n.Remove()
}

// Started is when the engine was opened.
func (e *Engine) Started() time.Time { return e.started }

// loadID reads the installation's identity, made at the first start.
func (e *Engine) loadID(ctx context.Context) error {
	err := e.store.Each(bucketMeta, func(key string, value []byte) error {
		if key == "id" {
			e.id = string(value[1 : len(value)-1]) // a JSON string of plain characters
		}
		return nil
	}, func(string, error) {})
	if err != nil || e.id != "" {
		return err
	}
	e.id = randomID()
	return e.store.Put(ctx, bucketMeta, "id", e.id)
}

// randomID makes an identifier: 64 hex digits.
func randomID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// background runs f under the engine's context; Close waits for it.
func (e *Engine) background(f func(ctx context.Context)) {
	e.work.Go(func() { f(e.ctx) })
}
