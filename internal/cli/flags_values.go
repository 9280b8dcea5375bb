package cli

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

// sizeValue is a number of bytes written as 64m, 1.5g, 1024.
type sizeValue int64

func (v *sizeValue) Set(s string) (err error) {
	*v, err = parseSize(s)
	return err
}
func (v *sizeValue) Type() string   { return "bytes" }
func (v *sizeValue) String() string { return sizeString(int64(*v)) }

// sizeString renders the default in a help text: none for zero.
func sizeString(n int64) string {
	if n == 0 {
		return ""
	}
	return units.BytesSize(float64(n))
}

func parseSize(s string) (sizeValue, error) {
	n, err := units.RAMInBytes(s)
	return sizeValue(n), err
}

// swapValue is a sizeValue that may be -1: unlimited.
type swapValue int64

func (v *swapValue) Set(s string) error {
	if s == "-1" {
		*v = -1
		return nil
	}
	n, err := parseSize(s)
	*v = swapValue(n)
	return err
}
func (v *swapValue) Type() string   { return "bytes" }
func (v *swapValue) String() string { return sizeString(int64(*v)) }

// cpusValue is a decimal number of processors, kept in units of 10^-9.
type cpusValue int64

func (v *cpusValue) Set(s string) (err error) {
	*v, err = parseCPUs(s)
	return err
}
func (v *cpusValue) Type() string { return "decimal" }
func (v *cpusValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*v)/1e9, 'f', -1, 64)
}

// parseCPUs reads a decimal number of processors; more than nine decimals are refused, not rounded.
func parseCPUs(s string) (cpusValue, error) {
	if len(s) > 64 || strings.ContainsAny(s, "eEpPxX") { // an exponent could make the number arbitrarily long
		return 0, fmt.Errorf("not a number of CPUs: %q", s)
	}
	n, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, fmt.Errorf("not a number of CPUs: %q", s)
	}
	nano := n.Mul(n, big.NewRat(1e9, 1))
	if !nano.IsInt() || !nano.Num().IsInt64() {
		return 0, fmt.Errorf("number of CPUs %q is too precise or too large", s)
	}
	return cpusValue(nano.Num().Int64()), nil
}

// keyValues turns key=value (or a bare key) into a map.
func keyValues(list []string) map[string]string {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		key, value, _ := strings.Cut(kv, "=")
		m[key] = value
	}
	return m
}

// parseRestart reads no, always, unless-stopped, on-failure and on-failure:N.
func parseRestart(s string) (container.RestartPolicy, error) {
	name, count, hasCount := strings.Cut(s, ":")
	policy := container.RestartPolicy{Name: container.RestartPolicyMode(name)}
	if s == "" {
		return policy, nil
	}
	if name == "" {
		return policy, fmt.Errorf("invalid restart policy %q: no policy provided before colon", s)
	}
	if hasCount {
		n, err := strconv.Atoi(count)
		if err != nil {
			return policy, fmt.Errorf("invalid restart policy %q: maximum retry count must be an integer", s)
		}
		policy.MaximumRetryCount = n
	}
	return policy, container.ValidateRestartPolicy(policy)
}

func parseUlimits(list []string) ([]*container.Ulimit, error) {
	byName := map[string]int{}
	var out []*container.Ulimit
	for _, s := range list {
		limit, err := units.ParseUlimit(s)
		if err != nil {
			return nil, fmt.Errorf("ulimit %q: %w", s, err)
		}
		if at, ok := byName[limit.Name]; ok {
			out[at] = limit
			continue
		}
		byName[limit.Name] = len(out)
		out = append(out, limit)
	}
	return out, nil
}

// devicePath splits PATH:VALUE and wants an absolute path below /dev.
func devicePath(s string) (path, value string, err error) {
	path, value, ok := strings.Cut(s, ":")
	if !ok || path == "" || value == "" {
		return "", "", fmt.Errorf("bad format %q: want DEVICE-PATH:VALUE", s)
	}
	if !strings.HasPrefix(path, "/dev/") {
		return "", "", fmt.Errorf("bad format for device path %q: want /dev/…", path)
	}
	return path, value, nil
}

func parseWeightDevices(list []string) ([]*blkiodev.WeightDevice, error) {
	out := []*blkiodev.WeightDevice{}
	for _, s := range list {
		path, value, err := devicePath(s)
		if err != nil {
			return nil, err
		}
		weight, err := strconv.ParseUint(value, 10, 16)
		if err != nil || (weight != 0 && (weight < 10 || weight > 1000)) {
			return nil, fmt.Errorf("invalid weight for device %q: want 10 to 1000, or 0", s)
		}
		out = append(out, &blkiodev.WeightDevice{Path: path, Weight: uint16(weight)})
	}
	return out, nil
}

// parseThrottles reads DEVICE:RATE; bytes allows units (1mb), otherwise the rate is a count.
func parseThrottles(list []string, bytes bool) ([]*blkiodev.ThrottleDevice, error) {
	out := []*blkiodev.ThrottleDevice{}
	for _, s := range list {
		path, value, err := devicePath(s)
		if err != nil {
			return nil, err
		}
		var rate uint64
		if bytes {
			n, sizeErr := units.RAMInBytes(value)
			if err = sizeErr; n >= 0 {
				rate = uint64(n)
			}
		} else {
			rate, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("invalid rate for device %q: want a positive number", s)
		}
		out = append(out, &blkiodev.ThrottleDevice{Path: path, Rate: rate})
	}
	return out, nil
}

// parseDevice reads HOST[:CONTAINER][:MODE], where a second part that looks like a mode is one.
func parseDevice(s string) (container.DeviceMapping, error) {
	parts := strings.Split(s, ":")
	dev := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	switch {
	case parts[0] == "" || len(parts) > 3:
		return dev, fmt.Errorf("invalid device specification: %q", s)
	case len(parts) == 2 && isDeviceMode(parts[1]):
		dev.CgroupPermissions = parts[1]
	case len(parts) >= 2 && parts[1] != "":
		dev.PathInContainer = parts[1]
	}
	if len(parts) == 3 {
		if !isDeviceMode(parts[2]) {
			return dev, fmt.Errorf("invalid device mode %q: want a combination of r, w and m", parts[2])
		}
		dev.CgroupPermissions = parts[2]
	}
	return dev, nil
}

func isDeviceMode(s string) bool {
	if s == "" {
		return false
	}
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[i+1:], c) {
			return false
		}
	}
	return true
}
