package engine

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/events"
)

// knownFilters refuses filters that nobody would apply.
func knownFilters(filters map[string]map[string]bool, known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(filters)) {
		if !slices.Contains(known, key) {
			return refuse("invalid filter '%s'", key)
		}
	}
	return nil
}

// boolFilters refuses values of these filters that are neither true nor false, and both at once.
func boolFilters(filters map[string]map[string]bool, keys ...string) error {
	for _, key := range keys {
		for v := range filters[key] {
			if _, err := strconv.ParseBool(v); err != nil || len(filters[key]) > 1 {
				return refuse("invalid filter '%s=%v'", key, slices.Sorted(maps.Keys(filters[key])))
			}
		}
	}
	return nil
}

// anyMatch is true if there is no value, or if one matches.
func anyMatch(values map[string]bool, match func(string) bool) bool {
	if len(values) == 0 {
		return true
	}
	for v, on := range values {
		if on && match(v) {
			return true
		}
	}
	return false
}

// labelsMatch is true if every "key" or "key=value" is among the labels.
func labelsMatch(wanted map[string]bool, labels map[string]string) bool {
	for w := range wanted {
		if !hasLabel(w, labels) {
			return false
		}
	}
	return true
}

// labelsDenied is true if one of "key" or "key=value" is among the labels.
func labelsDenied(denied map[string]bool, labels map[string]string) bool {
	for d := range denied {
		if hasLabel(d, labels) {
			return true
		}
	}
	return false
}

func hasLabel(wanted string, labels map[string]string) bool {
	key, value, exact := strings.Cut(wanted, "=")
	got, found := labels[key]
	return found && (!exact || got == value)
}

func isTrue(s string) bool {
	on, err := strconv.ParseBool(s)
	return err == nil && on
}

// pruneFilter selects by docker's "until" (a duration ago or a time), "label" and "label!".
func pruneFilter(filters map[string]map[string]bool) (func(created time.Time, labels map[string]string) bool, error) {
	if err := knownFilters(filters, "until", "label", "label!"); err != nil {
		return nil, err
	}
	until := time.Time{}
	for text := range filters["until"] {
		t, err := parseTime(text)
		if err != nil {
			return nil, err
		}
		until = t
	}
	return func(created time.Time, labels map[string]string) bool {
		return (until.IsZero() || created.Before(until)) && labelsMatch(filters["label"], labels) && !labelsDenied(filters["label!"], labels)
	}, nil
}

// parseTime reads a duration that has passed, seconds since 1970 with a fraction, or RFC 3339.
func parseTime(text string) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return time.UnixMicro(int64(seconds * 1e6)), nil
	}
	return time.Time{}, refuse("invalid time %q: want a duration, seconds since 1970 or RFC 3339", text)
}

// CheckEventFilters refuses filters for events that nobody would apply.
func CheckEventFilters(filters map[string]map[string]bool) error {
	_, err := eventFilter(filters)
	return err
}

// CheckPruneFilters refuses filters for pruning that nobody would apply.
func CheckPruneFilters(filters map[string]map[string]bool) error {
	_, err := pruneFilter(filters)
	return err
}

// eventFilter compiles docker's filters for events.
func eventFilter(filters map[string]map[string]bool) (func(events.Message) bool, error) {
	if err := knownFilters(filters, "type", "event", "container", "image", "volume", "network", "daemon", "label", "scope", "plugin", "service", "node", "secret", "config"); err != nil {
		return nil, err
	}
	object := func(key string, m events.Message) bool {
		if len(filters[key]) == 0 {
			return true
		}
		return string(m.Type) == key && anyMatch(filters[key], func(s string) bool {
			return s == m.Actor.ID || s == m.Actor.Attributes["name"] || (len(s) >= 4 && strings.HasPrefix(m.Actor.ID, s))
		})
	}
	return func(m events.Message) bool {
		for _, key := range []string{"container", "volume", "network", "daemon", "plugin", "service", "node", "secret", "config"} {
			if !object(key, m) {
				return false
			}
		}
		return anyMatch(filters["type"], func(s string) bool { return s == string(m.Type) }) &&
			anyMatch(filters["event"], func(s string) bool { return s == string(m.Action) || strings.HasPrefix(string(m.Action), s+":") }) &&
			anyMatch(filters["image"], func(s string) bool {
				return s == m.Actor.ID || s == m.Actor.Attributes["image"] || s == m.Actor.Attributes["name"]
			}) &&
			anyMatch(filters["scope"], func(s string) bool { return s == m.Scope }) &&
			labelsMatch(filters["label"], m.Actor.Attributes)
	}, nil
}

// parseSize reads a size in bytes with docker's suffixes (10m).
func parseSize(text string) (int64, error) { return units.RAMInBytes(text) }
