package oci

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gantry/rawfile"
)

// schemata are the limits of a class: by resource (L3, L2DATA, MB, …), and in there by domain.
type schemata map[string]map[uint64]string

// parse adds lines in the form of a schemata file, NAME:DOMAIN=VALUE;DOMAIN=VALUE. Later ones prevail.
func (s schemata) parse(text string) error {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, values, found := strings.Cut(line, ":")
		if !found {
			return fmt.Errorf("%q is not of the form NAME:DOMAIN=VALUE", line)
		}
		name = strings.TrimSpace(name)
		if s[name] == nil {
			s[name] = map[uint64]string{}
		}
		for part := range strings.SplitSeq(values, ";") {
			domain, value, found := strings.Cut(part, "=")
			number, err := strconv.ParseUint(strings.TrimSpace(domain), 10, 32)
			if !found || err != nil {
				return fmt.Errorf("%q is not of the form NAME:DOMAIN=VALUE", line)
			}
			s[name][number] = strings.TrimSpace(value)
		}
	}
	return nil
}

// compare tells where a class that exists is not as the configuration wants it.
func (s *rdtState) compare(mount string, wanted []string) error {
	if len(wanted) == 0 {
		return nil
	}
	text, err := rawfile.Read(filepath.Join(s.class(mount), "schemata"))
	if err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	have, want := schemata{}, schemata{}
	if err := have.parse(string(text)); err != nil {
		return fmt.Errorf("linux.intelRdt: class %s: schemata: %w", s.Class, err)
	}
	for _, schema := range wanted {
		if err := want.parse(schema); err != nil {
			return fmt.Errorf("linux.intelRdt: schema %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		for _, domain := range slices.Sorted(maps.Keys(want[name])) {
			wanted := want[name][domain]
			if is, there := have[name][domain]; !there || !sameValue(mount, name, wanted, is) {
				return fmt.Errorf("linux.intelRdt: class %s exists, with %s:%d=%s in place of %s", s.Class, name, domain, is, wanted)
			}
		}
	}
	return nil
}

// sameValue compares as the kernel reads: bit masks in base 16, or bandwidths in base 10, which it rounds up to steps.
func sameValue(mount, resource, want, is string) bool {
	base := 16
	if resource == "MB" || resource == "SMBA" {
		base = 10
	}
	parse := func(s string) (uint64, error) {
		if base == 16 {
			s = strings.TrimPrefix(strings.ToLower(s), "0x")
		}
		return strconv.ParseUint(s, base, 64)
	}
	a, err := parse(want)
	b, otherErr := parse(is)
	if err != nil || otherErr != nil {
		return want == is
	}
	if a == b || base == 16 {
		return a == b
	}
	step, err := readNumber(filepath.Join(mount, "info", resource, "bandwidth_gran"))
	return err == nil && step > 0 && a%step != 0 && a-a%step+step == b
}

// readNumber reads a file that has one.
func readNumber(path string) (uint64, error) {
	text, err := rawfile.Read(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// RDTStats are what resctrl says of a container's class of service; all zero for a container without one. The layout is
// that of intel_rdt in runc's events (its types/events.go).
type RDTStats struct {
	L3 *RDTCache `json:"l3_cache_info,omitempty"`
	// Lines of the schemata files of the default class and of the container's.
	L3Root       string        `json:"l3_cache_schema_root,omitempty"`
	L3Schema     string        `json:"l3_cache_schema,omitempty"`
	Memory       *RDTBandwidth `json:"mem_bw_info,omitempty"`
	MemoryRoot   string        `json:"mem_bw_schema_root,omitempty"`
	MemorySchema string        `json:"mem_bw_schema,omitempty"`
	// By L3 domain, of the container alone: from its monitoring group or a class of its own.
	Bandwidth []RDTTraffic   `json:"mbm_stats,omitempty"`
	Occupancy []RDTOccupancy `json:"cmt_stats,omitempty"`
}

// RDTCache is what the processor can do about its L3 cache.
type RDTCache struct {
	Mask    string `json:"cbm_mask,omitempty"` // all bits, in base 16
	MinBits uint64 `json:"min_cbm_bits,omitempty"`
	Classes uint64 `json:"num_closids,omitempty"`
}

// RDTBandwidth is what it can do about memory bandwidth, in percent.
type RDTBandwidth struct {
	Step        uint64 `json:"bandwidth_gran,omitempty"`
	DelayLinear uint64 `json:"delay_linear,omitempty"`
	Min         uint64 `json:"min_bandwidth,omitempty"`
	Classes     uint64 `json:"num_closids,omitempty"`
}

// RDTTraffic is memory bandwidth that was used through one L3 cache, in bytes.
type RDTTraffic struct {
	Total uint64 `json:"mbm_total_bytes"`
	Local uint64 `json:"mbm_local_bytes"`
}

// RDTOccupancy is the part of one L3 cache that is in use, in bytes.
type RDTOccupancy struct {
	Bytes uint64 `json:"llc_occupancy"`
}

// RDTStats reads what resctrl says of the container. What the processor does not have, or cannot tell now, is left out.
func (c *Container) RDTStats() (*RDTStats, error) {
	rec, err := c.load()
	if err != nil {
		return nil, err
	}
	out := &RDTStats{}
	if rec.RDT == nil {
		return out, nil
	}
	mount, err := resctrl.find()
	if err != nil {
		return out, nil //nolint:nilerr // unmounted: its groups went with it
	}
	number := func(path string) uint64 {
		n, _ := readNumber(filepath.Join(mount, "info", path)) // there is none in older kernels
		return n
	}
	own, err := rawfile.Read(filepath.Join(rec.RDT.class(mount), "schemata"))
	if err != nil {
		return nil, fmt.Errorf("linux.intelRdt: %w", err)
	}
	root, err := rawfile.Read(filepath.Join(mount, "schemata"))
	if err != nil {
		return nil, fmt.Errorf("linux.intelRdt: %w", err)
	}
	if mask, err := rawfile.Read(filepath.Join(mount, "info/L3/cbm_mask")); err == nil {
		out.L3 = &RDTCache{strings.TrimSpace(string(mask)), number("L3/min_cbm_bits"), number("L3/num_closids")}
		out.L3Root, out.L3Schema = lineOf(root, "L3:"), lineOf(own, "L3:")
	}
	if _, err := os.Stat(filepath.Join(mount, "info/MB")); err == nil {
		out.Memory = &RDTBandwidth{number("MB/bandwidth_gran"), number("MB/delay_linear"), number("MB/min_bandwidth"), number("MB/num_closids")}
		out.MemoryRoot, out.MemorySchema = lineOf(root, "MB:"), lineOf(own, "MB:")
	}
	return out, out.monitor(rec.RDT, mount)
}

// monitor reads the counters of each L3 cache.
func (out *RDTStats) monitor(s *rdtState, mount string) error {
	if s.Monitor == "" && s.Shared {
		return nil // those of the class are everybody's
	}
	groups := s.groups(mount)
	domains, err := filepath.Glob(filepath.Join(groups[len(groups)-1], "mon_data/mon_L3_*"))
	if err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	for _, dir := range domains {
		total, err := readNumber(filepath.Join(dir, "mbm_total_bytes"))
		local, otherErr := readNumber(filepath.Join(dir, "mbm_local_bytes"))
		if err == nil && otherErr == nil {
			out.Bandwidth = append(out.Bandwidth, RDTTraffic{total, local})
		}
		if bytes, err := readNumber(filepath.Join(dir, "llc_occupancy")); err == nil {
			out.Occupancy = append(out.Occupancy, RDTOccupancy{bytes})
		}
	}
	return nil
}

// lineOf is the line of a schemata file that begins with name, without the blanks by which the kernel aligns them.
func lineOf(text []byte, name string) string {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, name) {
			return line
		}
	}
	return ""
}
