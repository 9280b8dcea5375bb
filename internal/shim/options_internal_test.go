package shim

import (
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

func encoded(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}
}

// TestOptionsAreHeededOrRejected: no option is ignored in silence, also none that containerd will add.
func TestOptionsAreHeededOrRejected(t *testing.T) {
	fields := (*runcoptions.Options)(nil).ProtoReflect().Descriptor().Fields()
	heeded := map[string]options{
		"no_pivot_root":  {noPivot: true},
		"no_new_keyring": {noNewKeyring: true},
		"shim_cgroup":    {shimCgroup: "/value"},
		"io_uid":         {IOUID: 7},
		"io_gid":         {IOGID: 7},
		"systemd_cgroup": {systemd: true},
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		m := &runcoptions.Options{}
		m.ProtoReflect().Set(f, map[protoreflect.Kind]protoreflect.Value{
			protoreflect.BoolKind: protoreflect.ValueOfBool(true), protoreflect.StringKind: protoreflect.ValueOfString("/value"),
			protoreflect.Uint32Kind: protoreflect.ValueOfUint32(7),
		}[f.Kind()])
		got, err := readOptions(encoded(t, m))
		if want, yes := heeded[string(f.Name())]; yes && (err != nil || got != want) {
			t.Errorf("%s: %+v, %v; want %+v", f.Name(), got, err, want)
		} else if !yes && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "option "+string(f.Name()))) {
			t.Errorf("%s is ignored: %v", f.Name(), err)
		}
	}
	for name, c := range map[string]struct {
		given *anypb.Any
		want  string // error
	}{
		"none":            {nil, ""},
		"empty":           {&anypb.Any{}, ""},
		"runc's defaults": {encoded(t, &runcoptions.Options{}), ""},
		"CRI's defaults":  {encoded(t, &runtimeoptions.Options{TypeUrl: "x"}), ""},
		"a file":          {encoded(t, &runtimeoptions.Options{ConfigPath: "/etc/x"}), "option config_path"},
		"a file's text":   {encoded(t, &runtimeoptions.Options{ConfigBody: []byte("x")}), "option config_body"},
		"another type":    {encoded(t, &emptypb.Empty{}), "google.protobuf.Empty"},
		"broken":          {&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}, "read the options"},
	} {
		if _, err := readOptions(c.given); c.want == "" && err != nil || c.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
