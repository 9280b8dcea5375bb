package engine

import (
	"slices"
	"testing"
)

// TestSensitivePathsAreCovered: what tells of the host, or changes it, is on the lists (CVE-2015-3630,
// GHSA-6fw5-f8r9-fgfm, GHSA-jq35-85cj-fj4p). That what is listed is covered, the tests of package oci show.
func TestSensitivePathsAreCovered(t *testing.T) {
	for _, path := range []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
		"/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	} {
		if !slices.Contains(maskedPaths, path) {
			t.Errorf("%s is not masked", path)
		}
	}
	for _, path := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		if !slices.Contains(readonlyPaths, path) {
			t.Errorf("%s is not read-only", path)
		}
	}
}
