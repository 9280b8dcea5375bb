package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"gantry/internal/client"
)

// shortID drops the algorithm and keeps twelve digits.
func shortID(id string) string {
	if _, digits, ok := strings.Cut(id, ":"); ok {
		id = digits
	}
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}

// ellipsis cuts s to width runes, the last one an ellipsis.
func ellipsis(s string, width int) string {
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	return string(runes[:width-1]) + "…"
}

// ago is the time since, in docker's words.
func ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

func humanSize(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// labelText writes labels as k=v,k=v in the order of their names.
func labelText(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, name+"="+labels[name])
	}
	return strings.Join(parts, ",")
}

// parseFilters reads -f key=value.
func parseFilters(list []string) (client.Filters, error) {
	filters := client.Filters{}
	for _, f := range list {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("invalid filter '%s': want NAME=VALUE", f)
		}
		filters.Add(strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value))
	}
	return filters, nil
}
