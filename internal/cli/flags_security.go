package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// security applies --security-opt: a seccomp profile is read here and sent along, systempaths=unconfined
// uncovers the hidden parts of /proc and /sys.
func (f *containerFlags) security(h *container.HostConfig) error {
	for _, opt := range f.securityOpts {
		if opt == "systempaths=unconfined" {
			h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
			continue
		}
		sent, err := securityOpt(opt)
		if err != nil {
			return err
		}
		h.SecurityOpt = append(h.SecurityOpt, sent)
	}
	return nil
}

func securityOpt(opt string) (string, error) {
	key, value, ok := strings.Cut(opt, "=")
	if !ok && key != "no-new-privileges" {
		if key, value, ok = strings.Cut(opt, ":"); !ok {
			return "", fmt.Errorf("invalid --security-opt: %q", opt)
		}
	}
	if key != "seccomp" || value == "unconfined" || value == "builtin" {
		return opt, nil
	}
	profile, err := os.ReadFile(value)
	if err != nil {
		return "", fmt.Errorf("read seccomp profile: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, profile); err != nil {
		return "", fmt.Errorf("seccomp profile %s: %w", value, err)
	}
	return "seccomp=" + compact.String(), nil
}
