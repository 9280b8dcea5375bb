package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
)

func TestHealthcheckMerge(t *testing.T) {
	img := &dockerspec.DockerOCIImage{}
	img.Config.Shell = []string{"/bin/ash", "-c"}
	img.Config.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD-SHELL", "of the image"}, Interval: time.Minute, Retries: 7}
	check := healthcheck(&container.Config{Healthcheck: &container.HealthConfig{Interval: time.Second}}, img)
	if check.Interval != time.Second || check.Retries != 7 || check.Timeout != healthTimeout || check.StartInterval != healthStartInterval || check.StartPeriod != 0 {
		t.Errorf("merged: %+v", check)
	}
	if got := strings.Join(healthCommand(check, &container.Config{}, img), "|"); got != "/bin/ash|-c|of the image" {
		t.Errorf("command %q", got)
	}
	own := &container.Config{Healthcheck: &container.HealthConfig{Test: []string{"CMD", "a", "b"}}}
	if got := strings.Join(healthCommand(healthcheck(own, img), own, img), "|"); got != "a|b" {
		t.Errorf("command %q", got)
	}
	if img.Config.Healthcheck.Timeout != 0 || own.Healthcheck.Retries != 0 {
		t.Error("what was merged was changed")
	}
	for name, c := range map[string]struct {
		config *container.Config
		img    *dockerspec.DockerOCIImage
	}{
		"off":     {&container.Config{Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}}, img},
		"nothing": {&container.Config{}, nil},
		"no test": {&container.Config{Healthcheck: &container.HealthConfig{Retries: 2}}, nil},
	} {
		if got := healthcheck(c.config, c.img); got != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestHealthRefused(t *testing.T) {
	for text, check := range map[string]container.HealthConfig{
		"Interval in Healthcheck cannot be less than 1ms":      {Interval: time.Microsecond},
		"StartPeriod in Healthcheck cannot be less than 1ms":   {StartPeriod: -time.Second},
		"StartInterval in Healthcheck cannot be less than 1ms": {StartInterval: 1},
		"Retries in Healthcheck cannot be negative":            {Retries: -1},
		"'RUN'":            {Test: []string{"RUN", "x"}},
		"no command after": {Test: []string{"CMD"}},
	} {
		if err := checkHealth(&check); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := checkHealth(&container.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Millisecond}); err != nil {
		t.Error(err)
	}
}

func TestNextHealth(t *testing.T) {
	started := time.Now()
	check := &container.HealthConfig{Retries: 2, StartPeriod: 10 * time.Second}
	type step struct {
		after  time.Duration
		code   int
		status container.HealthStatus
		streak int
	}
	for name, steps := range map[string][]step{
		"start-up is forgiven": {{time.Second, 1, "starting", 0}, {5 * time.Second, 1, "starting", 0}, {11 * time.Second, 1, "starting", 1}, {12 * time.Second, 1, "unhealthy", 2}},
		"healthy ends it":      {{time.Second, 0, "healthy", 0}, {2 * time.Second, 1, "healthy", 1}, {3 * time.Second, -1, "unhealthy", 2}, {4 * time.Second, 0, "healthy", 0}},
		"more and more":        {{time.Minute, 1, "starting", 1}, {time.Minute, 2, "unhealthy", 2}, {time.Minute, 1, "unhealthy", 3}, {time.Minute, 1, "unhealthy", 4}, {time.Minute, 1, "unhealthy", 5}, {time.Minute, 1, "unhealthy", 6}},
	} {
		h := container.Health{Status: container.Starting}
		for i, s := range steps {
			h = nextHealth(h, check, &container.HealthcheckResult{Start: started.Add(s.after), ExitCode: s.code}, started)
			if h.Status != s.status || h.FailingStreak != s.streak || len(h.Log) != min(i+1, healthResults) || h.Log[len(h.Log)-1].ExitCode != s.code {
				t.Errorf("%s, step %d: %+v", name, i, h)
			}
		}
	}
}

func TestHead(t *testing.T) {
	h := &head{limit: 5}
	for _, s := range []string{"abc", "def", "ghi"} {
		if n, err := h.Write([]byte(s)); n != 3 || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	if h.String() != "abcde" {
		t.Errorf("kept %q", h.String())
	}
}
