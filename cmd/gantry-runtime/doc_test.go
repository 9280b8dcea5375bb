package main

import (
	"os"
	"strings"
	"testing"

	"gantry/oci"
)

// TestDocumentedSteps finds every step that the page for newcomers shows in the plan of its example, in the same order.
func TestDocumentedSteps(t *testing.T) {
	spec := example()
	spec.Process.Terminal, spec.Process.Args = false, []string{"sleep", "1000"}
	plan, err := oci.Compile(t.TempDir(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if _, err := plan.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	var printed []string
	for line := range strings.Lines(text.String()) {
		printed = append(printed, strings.TrimSpace(strings.TrimLeft(line, " 0123456789")))
	}
	page, err := os.ReadFile("../../docs/a-container-step-by-step.md")
	if err != nil {
		t.Fatal(err)
	}
	shown, next := 0, 0
	for i, part := range strings.Split(string(page), "```plan\n") {
		if i == 0 {
			continue
		}
		block, _, _ := strings.Cut(part, "```")
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			shown++
			at := next
			for at < len(printed) && printed[at] != line && !(strings.HasPrefix(line, "clone3(") && strings.HasPrefix(printed[at], "clone3(")) { // v2 has CLONE_INTO_CGROUP
				at++
			}
			if at == len(printed) {
				t.Errorf("the page shows %q, which is not in the plan after %q", line, printed[max(0, next-1)])
				continue
			}
			next = at + 1
		}
	}
	if shown < 40 {
		t.Errorf("only %d lines of plan on the page", shown)
	}
	if strings.Contains(text.String(), "syscall_") {
		t.Error("the plan has a system call that the printer does not know")
	}
}
