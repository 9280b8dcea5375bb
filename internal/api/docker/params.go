package docker

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/moby/api/pkg/authconfig"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	images "gantry/internal/image"
)

// boolean is false for an absent or empty parameter, 0, no, false and none; anything else is true, as in moby.
func boolean(q url.Values, key string) bool {
	switch strings.ToLower(strings.TrimSpace(q.Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// booleanOr is boolean with a default for an absent parameter.
func booleanOr(q url.Values, key string, absent bool) bool {
	if !q.Has(key) {
		return absent
	}
	return boolean(q, key)
}

// integer is nil for an absent or empty parameter.
func integer(q url.Values, key string) (*int, error) {
	s := q.Get(key)
	if s == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return nil, badRequest("parameter %s: %q is not a whole number", key, s)
	}
	return &n, nil
}

// size reads the parameters h and w of a resize, in cells.
func size(q url.Values) (height, width uint, err error) {
	for key, into := range map[string]*uint{"h": &height, "w": &width} {
		n, err := strconv.ParseUint(q.Get(key), 10, 16) // struct winsize has 16 bits
		if err != nil {
			return 0, 0, badRequest("invalid resize parameter %s: %q is not a number from 0 to 65535", key, q.Get(key))
		}
		*into = uint(n)
	}
	return height, width, nil
}

// filters reads the parameter filters in its form since API 1.22, {"key":{"value":true}}, or the one before, {"key":["value"]},
// which some clients still send.
func filters(q url.Values) (map[string]map[string]bool, error) {
	f, err := parseFilters(q.Get("filters"))
	if err != nil {
		return nil, badRequest("invalid filters: %w", err)
	}
	return f, nil
}

func parseFilters(s string) (map[string]map[string]bool, error) {
	out := map[string]map[string]bool{}
	if s == "" {
		return out, nil
	}
	raw := map[string]json.RawMessage{}
	if err := unmarshal([]byte(s), &raw); err != nil {
		return nil, err
	}
	for key, value := range raw {
		set := map[string]bool{}
		if err := json.Unmarshal(value, &set); err != nil {
			var list []string
			if err := json.Unmarshal(value, &list); err != nil {
				return nil, badRequest("the values of %q are neither an object of booleans nor a list of strings", key)
			}
			set = make(map[string]bool, len(list))
			for _, v := range list {
				set[v] = true
			}
		}
		for v, on := range set {
			if !on {
				delete(set, v)
			}
		}
		if set != nil { // null
			out[key] = set
		}
	}
	return out, nil
}

// timestamp reads "seconds" or "seconds.fraction" since 1970; absent or "0" is the zero time, no bound.
func timestamp(q url.Values, key string) (time.Time, error) {
	t, err := parseTimestamp(q.Get(key))
	if err != nil {
		return time.Time{}, badRequest("parameter %s: %w", key, err)
	}
	return t, nil
}

func parseTimestamp(s string) (time.Time, error) {
	if s == "" || s == "0" {
		return time.Time{}, nil
	}
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec > math.MaxInt32*1000 || sec < -math.MaxInt32*1000 {
		return time.Time{}, badRequest("%q is not a Unix time in seconds", s)
	}
	if fraction == "" {
		return time.Unix(sec, 0), nil
	}
	nanos := (fraction + "000000000")[:9]
	nsec, err := strconv.ParseUint(nanos, 10, 32)
	if err != nil || strings.Trim(fraction, "0123456789") != "" {
		return time.Time{}, badRequest("%q is not a Unix time in seconds", s)
	}
	return time.Unix(sec, int64(nsec)), nil
}

// bounds reads since and until.
func bounds(q url.Values) (since, until time.Time, err error) {
	if since, err = timestamp(q, "since"); err != nil {
		return since, until, err
	}
	if until, err = timestamp(q, "until"); err != nil {
		return since, until, err
	}
	if !since.IsZero() && !until.IsZero() && since.After(until) {
		return since, until, badRequest("`since` time (%s) cannot be after `until` time (%s)", q.Get("since"), q.Get("until"))
	}
	return since, until, nil
}

// platform reads the parameter platform: "linux/arm64/v8", or the JSON object that newer routes take. Absent is nil.
func platform(q url.Values) (*ocispec.Platform, error) {
	s := q.Get("platform")
	if s == "" {
		return nil, nil
	}
	var p ocispec.Platform
	if strings.HasPrefix(s, "{") {
		if err := unmarshal([]byte(s), &p); err != nil {
			return nil, badRequest("parameter platform: %w", err)
		}
		if p.OS == "" || p.Architecture == "" {
			return nil, badRequest("parameter platform: both os and architecture must be provided")
		}
		return &p, nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return nil, badRequest("parameter platform: %w", err)
	}
	return &p, nil
}

// credentials reads the header X-Registry-Auth: base64url of a JSON object. No header, or one without a secret, is nil.
func credentials(header string) (*images.Auth, error) {
	if header == "" {
		return nil, nil
	}
	c, err := authconfig.Decode(header)
	if err != nil {
		return nil, badRequest("%w", err)
	}
	a := images.Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}
	if c.Auth != "" && a.Username == "" {
		pair, err := base64.StdEncoding.DecodeString(c.Auth)
		if err != nil {
			return nil, badRequest("invalid X-Registry-Auth header: the field auth is not base64")
		}
		a.Username, a.Password, _ = strings.Cut(string(pair), ":")
	}
	if a == (images.Auth{}) {
		return nil, nil
	}
	return &a, nil
}
