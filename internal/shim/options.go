package shim

import (
	"errors"
	"fmt"
	"os"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"gantry/cgroup"
	"gantry/oci"
)

// options are what a Create request asks for beside its own fields. What is stored of them is for the container's later
// processes, also under the next supervisor.
type options struct {
	IOUID, IOGID int `json:",omitempty"` // owner of the pipes and FIFOs; 0: ours

	noPivot, noNewKeyring, systemd bool
	shimCgroup                     string
}

// readOptions reads the options of a Create request: runc's, by which a client of containerd-shim-runc-v2 is used to set
// them, or none. What this shim cannot do is an error that names the option.
func readOptions(o *anypb.Any) (options, error) {
	switch o.GetTypeUrl() { // containerd's type URLs are the names without a host; see typeurl
	case "":
		return options{}, nil
	case string((*runcoptions.Options)(nil).ProtoReflect().Descriptor().FullName()):
		var r runcoptions.Options
		if err := proto.Unmarshal(o.GetValue(), &r); err != nil {
			return options{}, fmt.Errorf("read the options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return fromRunc(&r)
	case string((*runtimeoptions.Options)(nil).ProtoReflect().Descriptor().FullName()):
		var r runtimeoptions.Options // containerd's CRI has them for every shim but runc's
		if err := proto.Unmarshal(o.GetValue(), &r); err != nil {
			return options{}, fmt.Errorf("read the options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return options{}, rejectSet("this shim has no configuration file", map[string]bool{
			"config_path": r.ConfigPath != "", "config_body": len(r.ConfigBody) > 0,
		})
	}
	return options{}, fmt.Errorf("options of the type %s: this shim knows those of containerd.runc.v1.Options: %w", o.GetTypeUrl(), errdefs.ErrInvalidArgument)
}

func fromRunc(r *runcoptions.Options) (options, error) {
	o := options{
		IOUID: int(r.IoUid), IOGID: int(r.IoGid), noPivot: r.NoPivotRoot, noNewKeyring: r.NoNewKeyring, systemd: r.SystemdCgroup, shimCgroup: r.ShimCgroup,
	}
	return o, errors.Join(
		rejectSet("this shim makes containers itself, in a state directory of its own; use io.containerd.runc.v2 to have another runtime make them",
			map[string]bool{"binary_name": r.BinaryName != "", "root": r.Root != ""}),
		rejectSet("this shim takes no checkpoints", map[string]bool{"criu_image_path": r.CriuImagePath != "", "criu_work_path": r.CriuWorkPath != ""}),
		rejectSet("this shim serves the Task API on its own socket", map[string]bool{
			"task_api_address": r.TaskApiAddress != "", "task_api_version": r.TaskApiVersion != 0, //lint:ignore SA1019 deprecated is not gone
		}),
	)
}

// rejectSet is the error of options that are set although they cannot be heeded.
func rejectSet(why string, set map[string]bool) error {
	var errs []error
	for name, isSet := range set {
		if isSet {
			errs = append(errs, fmt.Errorf("option %s: %s: %w", name, why, errdefs.ErrInvalidArgument))
		}
	}
	return errors.Join(errs...)
}

// runtimeOf is the runtime that makes a container with the options.
func (s *Server) runtimeOf(o options) *oci.Runtime {
	if !o.systemd {
		return s.runtime
	}
	r := *s.runtime
	r.Systemd = true
	return &r
}

// own gives the container's ends of its streams to the owner that the options name.
func (o options) own(stdio oci.Stdio) error {
	if o.IOUID == 0 && o.IOGID == 0 {
		return nil
	}
	for _, f := range []*os.File{stdio.Stdin, stdio.Stdout, stdio.Stderr} {
		if f == nil {
			continue
		}
		if err := f.Chown(o.IOUID, o.IOGID); err != nil {
			return fmt.Errorf("options io_uid and io_gid: give a stream to %d:%d: %w", o.IOUID, o.IOGID, err)
		}
	}
	return nil
}

// place moves this supervisor into the cgroup that option shim_cgroup names. Since one supervisor serves all containers
// of a containerd's namespace, they must name the same one; a container that names none is fine with any.
func (s *Server) place(path string) error {
	if path == "" {
		return nil
	}
	s.placing.Lock()
	defer s.placing.Unlock()
	switch s.placed {
	case path:
		return nil
	case "":
	default:
		return fmt.Errorf("option shim_cgroup %s: the supervisor, which serves all containers of namespace %s, is in %s for another one: %w",
			path, s.config.Namespace, s.placed, errdefs.ErrFailedPrecondition)
	}
	g, err := cgroup.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("option shim_cgroup: there is no cgroup %s: make it first: %w", path, errdefs.ErrInvalidArgument)
	}
	if err == nil {
		err = g.Add(os.Getpid())
	}
	if err != nil {
		return fmt.Errorf("option shim_cgroup: %w", err)
	}
	s.placed = path
	return nil
}
