package docker

import (
	"fmt"
	"strconv"
	"strings"
)

// apiVersion is an API version in a form that compares: major × 1000 + minor.
type apiVersion int

// v names the version 1.minor.
func v(minor int) apiVersion { return apiVersion(1000 + minor) }

// parseVersion reads "1.41"; each number has at most three digits.
func parseVersion(s string) (apiVersion, error) {
	major, minor, ok := strings.Cut(s, ".")
	ma, err1 := strconv.ParseUint(major, 10, 16)
	mi, err2 := strconv.ParseUint(minor, 10, 16)
	if !ok || err1 != nil || err2 != nil || ma > 999 || mi > 999 {
		return 0, fmt.Errorf("API version %q is not of the form 1.41", s)
	}
	return apiVersion(ma*1000 + mi), nil
}

func mustVersion(s string) apiVersion {
	v, err := parseVersion(s)
	if err != nil {
		panic(err)
	}
	return v
}
