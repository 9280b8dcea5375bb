package engine

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	netapi "github.com/moby/moby/api/types/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/image"
)

// What becomes of a field of a request.
const (
	derived  = "derived"  // what a start is made of changes with it
	refused  = "refused"  // by an error of the client's making
	warned   = "warned"   // it has no effect, and the client is told
	lifetime = "lifetime" // used after the start; the comment says where
	readBack = "told"     // it is for clients, who read it back
)

// fields says of every field of a request what becomes of it, by a value that shows it. A field that is in no table fails the test:
// nothing may be passed over in silence.
var fields = map[string][]struct {
	name, value, fate string
}{
	"Config": {
		{"Hostname", `"box"`, derived},
		{"Domainname", `"example.org"`, derived},
		{"User", `"7:8"`, lifetime}, // startValues resolves it in the image
		{"AttachStdin", `true`, readBack},
		{"AttachStdout", `true`, readBack},
		{"AttachStderr", `true`, readBack},
		{"ExposedPorts", `{"80/tcp":{}}`, lifetime}, // ports with PublishAllPorts; portSummaries
		{"Tty", `true`, derived},
		{"OpenStdin", `true`, lifetime}, // createTask
		{"StdinOnce", `true`, lifetime}, // createTask
		{"Env", `["A=b"]`, derived},
		{"Cmd", `["x"]`, derived},
		{"Healthcheck", `{"Test":["CMD","true"]}`, lifetime}, // the health monitor
		{"ArgsEscaped", `true`, warned},
		{"Image", `"other"`, lifetime}, // imageFor
		{"Volumes", `{"/data":{}}`, derived},
		{"WorkingDir", `"/tmp"`, derived},
		{"Entrypoint", `["y"]`, derived},
		{"NetworkDisabled", `true`, lifetime}, // connect
		{"OnBuild", `["RUN x"]`, readBack},
		{"Labels", `{"a":"b"}`, readBack},
		{"StopSignal", `"INT"`, lifetime}, // stop
		{"StopTimeout", `3`, lifetime},    // stop
		{"Shell", `["sh"]`, readBack},     // of builds
	},
	"HostConfig": {
		{"Binds", `["/tmp:/x:ro"]`, derived},
		{"ContainerIDFile", `"/x"`, readBack},
		{"LogConfig", `{"Type":"json-file","Config":{"max-size":"1m"}}`, derived},
		{"NetworkMode", `"host"`, derived},
		{"PortBindings", `{"80/tcp":[{"HostPort":"8080-8090"}]}`, derived},
		{"RestartPolicy", `{"Name":"always"}`, lifetime}, // restart.go
		{"AutoRemove", `true`, lifetime},                 // exit.go
		{"VolumeDriver", `"nfs"`, refused},
		{"VolumesFrom", `["nosuch"]`, refused},
		{"ConsoleSize", `[10,20]`, lifetime}, // buildProcess, with Tty
		{"Annotations", `{"a":"b"}`, derived},
		{"CapAdd", `["NET_ADMIN"]`, derived},
		{"CapDrop", `["CHOWN"]`, derived},
		{"CgroupnsMode", `"host"`, derived},
		{"Dns", `["9.9.9.9"]`, lifetime},           // writeHostFiles
		{"DnsOptions", `["ndots:2"]`, lifetime},    // writeHostFiles
		{"DnsSearch", `["example.org"]`, lifetime}, // writeHostFiles
		{"ExtraHosts", `["a:1.2.3.4"]`, lifetime},  // writeHostFiles
		{"GroupAdd", `["7"]`, lifetime},            // startValues
		{"IpcMode", `"none"`, derived},
		{"Cgroup", `"container:x"`, refused},
		{"Links", `["a:b"]`, refused},
		{"OomScoreAdj", `5`, derived},
		{"PidMode", `"host"`, derived},
		{"Privileged", `true`, derived},
		{"PublishAllPorts", `true`, lifetime}, // ports
		{"ReadonlyRootfs", `true`, derived},
		{"SecurityOpt", `["no-new-privileges"]`, derived},
		{"StorageOpt", `{"size":"1G"}`, refused},
		{"Tmpfs", `{"/x":"size=1m"}`, derived},
		{"UTSMode", `"host"`, derived},
		{"UsernsMode", `"private"`, refused},
		{"ShmSize", `1048576`, derived},
		{"Sysctls", `{"net.ipv4.ip_forward":"1"}`, derived},
		{"Runtime", `"nosuch"`, refused},
		{"Isolation", `"hyperv"`, refused},
		{"CpuShares", `7`, derived},
		{"Memory", `67108864`, derived},
		{"NanoCpus", `500000000`, derived},
		{"CgroupParent", `"/x"`, lifetime}, // cgroupPath
		{"BlkioWeight", `20`, derived},
		{"BlkioWeightDevice", `[{"Path":"/dev/nosuch","Weight":20}]`, refused},
		{"BlkioDeviceReadBps", `[{"Path":"/dev/nosuch","Rate":20}]`, refused},
		{"BlkioDeviceWriteBps", `[{"Path":"/dev/nosuch","Rate":20}]`, refused},
		{"BlkioDeviceReadIOps", `[{"Path":"/dev/nosuch","Rate":20}]`, refused},
		{"BlkioDeviceWriteIOps", `[{"Path":"/dev/nosuch","Rate":20}]`, refused},
		{"CpuPeriod", `5000`, derived},
		{"CpuQuota", `5000`, derived},
		{"CpuRealtimePeriod", `5000`, derived},
		{"CpuRealtimeRuntime", `5000`, derived},
		{"CpusetCpus", `"0"`, derived},
		{"CpusetMems", `"0"`, derived},
		{"Devices", `[{"PathOnHost":"/dev/nosuch","PathInContainer":"/dev/x","CgroupPermissions":"rwm"}]`, lifetime}, // the devices of a start
		{"DeviceCgroupRules", `["c 1:3 rwm"]`, derived},
		{"DeviceRequests", `[{"Count":1}]`, refused},
		{"MemoryReservation", `67108864`, derived},
		{"MemorySwap", `67108864`, refused}, // without Memory
		{"MemorySwappiness", `5`, derived},
		{"OomKillDisable", `true`, derived},
		{"PidsLimit", `7`, derived},
		{"Ulimits", `[{"Name":"nofile","Soft":1,"Hard":2}]`, derived},
		{"CpuCount", `1`, warned},
		{"CpuPercent", `1`, warned},
		{"IOMaximumIOps", `1`, refused},
		{"IOMaximumBandwidth", `1`, refused},
		{"Mounts", `[{"Type":"tmpfs","Target":"/x"}]`, derived},
		{"MaskedPaths", `["/x"]`, derived},
		{"ReadonlyPaths", `["/x"]`, derived},
		{"Init", `true`, lifetime}, // the first process of a start
		{"Umask", `7`, derived},
	},
	"Mount": {
		{"Type", `"floppy"`, refused},
		{"Source", `"/var"`, derived},
		{"Target", `"/y"`, derived},
		{"ReadOnly", `true`, derived},
		{"Consistency", `"sometimes"`, refused},
		{"BindOptions", `{"NonRecursive":true}`, derived},
		{"VolumeOptions", `{"Subpath":"x"}`, refused},
		{"ImageOptions", `{"Subpath":"x"}`, refused},
		{"TmpfsOptions", `{"SizeBytes":-1}`, refused},
		{"ClusterOptions", `{}`, refused},
	},
	"BindOptions": {
		{"Propagation", `"rshared"`, derived},
		{"NonRecursive", `true`, derived},
		{"CreateMountpoint", `true`, derived},
		{"ReadOnlyNonRecursive", `true`, derived},
		{"ReadOnlyForceRecursive", `true`, readBack}, // it is so anyway
	},
	"EndpointSettings": {
		{"IPAMConfig", `{"IPv6Address":"::1"}`, refused},
		{"Links", `["a"]`, refused},
		{"Aliases", `["a"]`, refused},
		{"DriverOpts", `{"a":"b"}`, refused},
		{"GwPriority", `1`, refused},
		{"NetworkID", `"x"`, readBack}, // what follows is the engine's to say
		{"EndpointID", `"x"`, readBack},
		{"Gateway", `"1.2.3.4"`, readBack},
		{"IPAddress", `"1.2.3.4"`, readBack},
		{"MacAddress", `"02:00:00:00:00:01"`, lifetime}, // connect
		{"IPPrefixLen", `1`, readBack},
		{"IPv6Gateway", `"::1"`, readBack},
		{"GlobalIPv6Address", `"::1"`, readBack},
		{"GlobalIPv6PrefixLen", `1`, readBack},
		{"DNSNames", `["a"]`, readBack},
	},
}

// wraps puts a field into a whole request.
var wraps = map[string]struct {
	of   any
	with string
}{
	"Config":           {container.Config{}, `{"Image":"i",%s}`},
	"HostConfig":       {container.HostConfig{}, `{"Image":"i","HostConfig":{%s}}`},
	"Mount":            {mount.Mount{}, `{"Image":"i","HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp","Target":"/x",%s}]}}`},
	"BindOptions":      {mount.BindOptions{}, `{"Image":"i","HostConfig":{"Mounts":[{"Type":"bind","Source":"/tmp","Target":"/x","ReadOnly":true,"BindOptions":{%s}}]}}`},
	"EndpointSettings": {netapi.EndpointSettings{}, `{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"bridge":{%s}}}}`},
}

func TestNoFieldIsPassedOver(t *testing.T) {
	for kind, wrap := range wraps {
		known := map[string]bool{}
		base, _, err := outcome(t, strings.Replace(fmt.Sprintf(wrap.with, ""), ",}", "}", 1))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for _, f := range fields[kind] {
			known[f.name] = true
			got, warnings, err := outcome(t, fmt.Sprintf(wrap.with, fmt.Sprintf("%q:%s", f.name, f.value)))
			what := fmt.Sprintf("%s.%s = %s", kind, f.name, f.value)
			switch f.fate {
			case refused:
				if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) && !errdefs.IsNotFound(err) {
					t.Errorf("%s: %v; want a refusal", what, err)
				}
			case warned:
				if err != nil || len(warnings) == 0 {
					t.Errorf("%s: %v, no warning", what, err)
				}
			case derived:
				if err != nil || got == base {
					t.Errorf("%s: %v, and it changes nothing", what, err)
				}
			default:
				if err != nil && f.name != "Devices" && f.name != "Image" {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		for _, name := range jsonNames(reflect.TypeOf(wrap.of)) {
			if !known[name] {
				t.Errorf("%s.%s: what becomes of it? Name it in the table", kind, name)
			}
		}
	}
}

// outcome is everything that a start of a container would be made of, as text.
func outcome(t *testing.T, body string) (string, []string, error) {
	t.Helper()
	var c Config
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	normalize(&c)
	e := &Engine{containers: map[string]*Container{}, names: map[string]string{}}
	img := &image.Image{ID: "sha256:0123456789abcdef", Config: *testImage()}
	points, warnings, err := e.check(&c, img)
	if err != nil {
		return "", nil, err
	}
	s := start{ID: "id", Hostname: "host", Image: &img.Config, Home: "/", Cgroup: "/c", User: specs.User{}}
	if c.Hostname != "" {
		s.Hostname = c.Hostname
	}
	for _, m := range points {
		s.Mounts = append(s.Mounts, m.spec(m.Source))
	}
	spec, err := buildSpec(c.Config, c.HostConfig, s)
	if err != nil {
		return "", nil, err
	}
	published, err := ports(&c, img)
	if err != nil {
		return "", nil, err
	}
	log, err := logOptions(record{ID: "id", Name: "n", Config: c, Image: imageRef{ID: img.ID}}, "/log")
	if err != nil {
		return "", nil, err
	}
	text, err := json.Marshal(map[string]any{"spec": spec, "ports": published, "log": log.URI(), "mounts": points})
	return string(text), warnings, err
}

// jsonNames lists a structure's fields by their names in JSON.
func jsonNames(t reflect.Type) []string {
	var list []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			list = append(list, jsonNames(f.Type)...)
			continue
		}
		if name == "" {
			name = f.Name
		}
		list = append(list, name)
	}
	return list
}
