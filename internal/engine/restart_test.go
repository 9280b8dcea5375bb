package engine

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

func policyRecord(name container.RestartPolicyMode, most, code, restarts int, stopped bool) record {
	r := record{Stopped: stopped, Last: lastRun{ExitCode: code, Restarts: restarts}}
	r.Config.HostConfig = &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: name, MaximumRetryCount: most}}
	return r
}

func TestWantsRun(t *testing.T) {
	for name, c := range map[string]struct {
		rec  record
		want bool
	}{
		"no":                       {policyRecord("no", 0, 1, 0, false), false},
		"none":                     {policyRecord("", 0, 1, 0, false), false},
		"always":                   {policyRecord("always", 0, 0, 99, false), true},
		"always, stopped":          {policyRecord("always", 0, 0, 0, true), false},
		"unless-stopped":           {policyRecord("unless-stopped", 0, 0, 5, false), true},
		"unless-stopped, stopped":  {policyRecord("unless-stopped", 0, 1, 0, true), false},
		"on-failure, success":      {policyRecord("on-failure", 0, 0, 0, false), false},
		"on-failure without bound": {policyRecord("on-failure", 0, 1, 99, false), true},
		"on-failure, the last":     {policyRecord("on-failure", 3, 1, 2, false), true},
		"on-failure, used up":      {policyRecord("on-failure", 3, 1, 3, false), false},
		"on-failure, stopped":      {policyRecord("on-failure", 3, 137, 0, true), false},
	} {
		if got := wantsRun(c.rec); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	var r retries
	rec := policyRecord("always", 0, 1, 0, false)
	want := firstDelay
	for range 12 {
		again, delay := r.next(rec, time.Second)
		if !again || delay != want {
			t.Errorf("%v, %v; want %v", again, delay, want)
		}
		want = min(2*want, maxDelay)
	}
	if _, delay := r.next(rec, 10*time.Second); delay != firstDelay {
		t.Errorf("after a run that lasted: %v", delay)
	}
}
