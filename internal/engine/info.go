package engine

import (
	"bufio"
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
)

// Info describes the engine and its host.
func (e *Engine) Info(ctx context.Context) (*system.Info, error) {
	host := uname()
	i := &system.Info{
		ID: e.id, Name: host.name, ServerVersion: e.o.Version, DockerRootDir: e.o.Root, Driver: "overlay2",
		DriverStatus: [][2]string{{"driver-type", "gantry layers"}}, LoggingDriver: "json-file", CgroupDriver: "cgroupfs",
		KernelVersion: host.release, OperatingSystem: osName(), OSType: "linux", Architecture: host.machine,
		NCPU: runtime.NumCPU(), MemTotal: int64(memoryTotal()), NGoroutines: runtime.NumGoroutine(), NFd: openFiles(),
		NEventsListener: e.events.count(), SystemTime: time.Now().Format(time.RFC3339Nano), IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig: &registry.ServiceConfig{IndexConfigs: map[string]*registry.IndexInfo{}, Mirrors: e.o.Mirrors["docker.io"]},
		MemoryLimit:    true, SwapLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true, PidsLimit: true, OomKillDisable: true,
		IPv4Forwarding: true, LiveRestoreEnabled: true, Images: e.heldImages(ctx),
		Runtimes: map[string]system.RuntimeWithStatus{"gantry": {}}, DefaultRuntime: "gantry",
		Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, SecurityOptions: []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		Plugins: system.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "none"}},
		Labels:  []string{}, InitBinary: "gantry-init", Warnings: []string{}, FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
	}
	mode, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	i.CgroupVersion = "1"
	if mode == cgroup.V2 {
		i.CgroupVersion = "2"
	}
	for _, c := range e.all() {
		i.Containers++
		switch c.view().phase {
		case phaseRunning, phaseRestarting:
			i.ContainersRunning++
		case phasePaused:
			i.ContainersPaused++
		default:
			i.ContainersStopped++
		}
	}
	return i, nil
}

// Version describes the program; the API layer adds the versions that it speaks.
func (e *Engine) Version(context.Context) system.VersionResponse {
	commit, built := buildOrigin()
	return system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Gantry"}, Version: e.o.Version, Os: "linux", Arch: runtime.GOARCH,
		GoVersion: runtime.Version(), KernelVersion: uname().release, GitCommit: commit, BuildTime: built,
		Components: []system.ComponentVersion{{Name: "Engine", Version: e.o.Version, Details: map[string]string{
			"Arch": runtime.GOARCH, "Os": "linux", "GoVersion": runtime.Version(), "KernelVersion": uname().release,
			"GitCommit": commit, "BuildTime": built, "Experimental": "false",
		}}},
	}
}

// buildOrigin is the commit that this program was built from, shortened, and its time; "unknown" if the build was not
// made in a checkout.
func buildOrigin() (commit, at string) {
	commit, at = "unknown", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return commit, at
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case "vcs.time":
			at = s.Value
		}
	}
	return commit, at
}

type hostNames struct{ name, release, machine string }

func uname() hostNames {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return hostNames{}
	}
	return hostNames{unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])}
}

// osName is PRETTY_NAME of os-release(5).
func osName() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); found {
			return strings.Trim(value, `"`)
		}
	}
	return "Linux"
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries)
}
