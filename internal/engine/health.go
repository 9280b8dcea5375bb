package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"
)

// What a health check does unless it says otherwise, and what is kept of it; docker's.
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthRetries       = 3
	healthResults       = 5
	healthOutput        = 4096 // bytes of one result
	healthBroken        = -1   // exit code of a check that did not end by itself
)

// healthcheck is the check that a container is to have, with every default filled in: what the request leaves out is
// the image's. It is nil where there is none, or where it is turned off.
func healthcheck(c *container.Config, img *dockerspec.DockerOCIImage) *container.HealthConfig {
	check := mergedHealthcheck(c, img)
	if check == nil || len(check.Test) == 0 || check.Test[0] == "NONE" {
		return nil
	}
	fill(&check.Interval, healthInterval)
	fill(&check.Timeout, healthTimeout)
	fill(&check.StartInterval, healthStartInterval)
	fill(&check.Retries, healthRetries)
	return check
}

// mergedHealthcheck is a copy of the request's check over the image's.
func mergedHealthcheck(c *container.Config, img *dockerspec.DockerOCIImage) *container.HealthConfig {
	var check container.HealthConfig
	if c.Healthcheck != nil {
		check = *c.Healthcheck
	}
	if img == nil || img.Config.Healthcheck == nil {
		if c.Healthcheck == nil {
			return nil
		}
		return &check
	}
	of := img.Config.Healthcheck
	if len(check.Test) == 0 {
		check.Test = of.Test
	}
	fill(&check.Interval, of.Interval)
	fill(&check.Timeout, of.Timeout)
	fill(&check.StartPeriod, of.StartPeriod)
	fill(&check.StartInterval, of.StartInterval)
	fill(&check.Retries, of.Retries)
	return &check
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// checkHealth refuses a check that could not run, in docker's words.
func checkHealth(check *container.HealthConfig) error {
	if check == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", check.Interval}, {"Timeout", check.Timeout}, {"StartPeriod", check.StartPeriod}, {"StartInterval", check.StartInterval}} {
		if d.value != 0 && d.value < time.Millisecond {
			return refuse("%s in Healthcheck cannot be less than 1ms", d.name)
		}
	}
	if check.Retries < 0 {
		return refuse("Retries in Healthcheck cannot be negative")
	}
	if len(check.Test) > 0 {
		switch kind, words := check.Test[0], len(check.Test); {
		case kind == "NONE", (kind == "CMD" || kind == "CMD-SHELL") && words > 1:
		case kind == "CMD", kind == "CMD-SHELL":
			return refuse("the health check has no command after %s", kind)
		default:
			return refuse("Unknown healthcheck type '%s' (expected 'CMD')", kind)
		}
	}
	return nil
}

// healthCommand is the command line of a check.
func healthCommand(check *container.HealthConfig, c *container.Config, img *dockerspec.DockerOCIImage) []string {
	if check.Test[0] == "CMD" {
		return check.Test[1:]
	}
	shell := []string(c.Shell)
	if len(shell) == 0 && img != nil {
		shell = img.Config.Shell
	}
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), check.Test[1:]...)
}

// superviseHealth begins to check a run, if the container has a check. What an engine before this one found goes on.
func (c *Container) superviseHealth(ctx context.Context, r *run) {
	c.mu.Lock()
	config, ref := c.record.Config.Config, c.record.Image
	c.mu.Unlock()
	img, err := c.engine.images.Get(ctx, ref.ID.String(), &ref.Platform)
	if err != nil {
		c.engine.log.Error("look for a health check in the image of a container", "container", c.ID, "error", err)
		return
	}
	check := healthcheck(config, &img.Config)
	if check == nil {
		return
	}
	health := c.readHealth()
	if health == nil {
		health = &container.Health{Status: container.Starting, Log: []*container.HealthcheckResult{}}
	}
	c.mu.Lock()
	if c.run != r {
		c.mu.Unlock()
		return
	}
	if old := c.record.Health; old != nil && len(health.Log) == 0 { // results outlive a restart
		health.Log = old.Log
	}
	c.record.Health = health
	c.mu.Unlock()
	c.engine.background(func(ctx context.Context) { c.watchHealth(ctx, r, check, healthCommand(check, config, &img.Config)) })
}

// watchHealth checks a run until it or the engine ends. A paused container is not asked.
func (c *Container) watchHealth(ctx context.Context, r *run, check *container.HealthConfig, command []string) {
	timer := time.NewTimer(c.healthPause(r, check))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ended:
			return
		case <-timer.C:
		}
		if c.view().phase == phaseRunning {
			result := c.probe(ctx, r, check, command)
			if ctx.Err() != nil { // it was cut short, and says nothing
				return
			}
			c.judge(r, check, result)
		}
		timer.Reset(c.healthPause(r, check))
	}
}

// healthPause is the time until the next check: a starting container may be asked more often.
func (c *Container) healthPause(r *run, check *container.HealthConfig) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.record.Health; h != nil && h.Status == container.Starting && time.Since(r.Started) < check.StartPeriod {
		return check.StartInterval
	}
	return check.Interval
}

// judge takes one result into account, tells who listens when the state changes, and keeps it for the next engine.
func (c *Container) judge(r *run, check *container.HealthConfig, result *container.HealthcheckResult) {
	c.mu.Lock()
	if c.run != r || c.record.Health == nil {
		c.mu.Unlock()
		return
	}
	old := c.record.Health.Status
	health := nextHealth(*c.record.Health, check, result, r.Started)
	c.record.Health = &health
	c.mu.Unlock()
	if health.Status != old {
		c.engine.containerEvent(c, events.Action(string(events.ActionHealthStatus)+": "+string(health.Status)))
	}
	if err := c.writeHealth(&health); err != nil && !errors.Is(err, fs.ErrNotExist) { // the run may have ended meanwhile
		c.engine.log.Error("keep a container's health", "container", c.ID, "error", err)
	}
}

// nextHealth is the health after one more result. Failures while the container may still start do not count.
func nextHealth(h container.Health, check *container.HealthConfig, result *container.HealthcheckResult, started time.Time) container.Health {
	h.Log = append(slices.Clone(h.Log), result)
	h.Log = h.Log[max(0, len(h.Log)-healthResults):]
	switch {
	case result.ExitCode == 0:
		h.Status, h.FailingStreak = container.Healthy, 0
	case h.Status == container.Starting && result.Start.Sub(started) < check.StartPeriod:
	default:
		h.FailingStreak++
		if h.FailingStreak >= check.Retries {
			h.Status = container.Unhealthy
		}
	}
	return h
}

// probe runs the check once.
func (c *Container) probe(ctx context.Context, r *run, check *container.HealthConfig, command []string) *container.HealthcheckResult {
	e := c.engine
	result := &container.HealthcheckResult{Start: time.Now(), ExitCode: healthBroken}
	defer func() { result.End = time.Now() }()
	fail := func(err error) *container.HealthcheckResult {
		result.Output = err.Error()
		return result
	}
	id, err := e.CreateExec(ctx, c.ID, container.ExecCreateRequest{AttachStdout: true, AttachStderr: true, Cmd: command})
	if err != nil {
		return fail(err)
	}
	defer e.forgetExec(c, id)
	x, err := e.execution(id)
	if err != nil {
		return fail(err)
	}
	stream, _, err := e.StartExec(ctx, id, ExecStart{})
	if err != nil {
		return fail(err)
	}
	output := &head{limit: healthOutput}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = stdcopy.StdCopy(output, output, stream) // the exit code tells of success, not the end of output
	}()
	timer := time.NewTimer(check.Timeout)
	defer timer.Stop()
	timedOut := false
	select {
	case <-read:
	case <-timer.C:
		timedOut = true
	case <-r.ended:
	case <-ctx.Done():
	}
	if err := x.kill(context.WithoutCancel(ctx)); err != nil {
		e.log.Warn("end a health check", "container", c.ID, "error", err)
	}
	_ = stream.Close() // what the check left running may still hold its output
	<-read
	result.Output = output.String()
	if timedOut {
		result.Output = fmt.Sprintf("Health check exceeded timeout (%v)", check.Timeout)
		if text := output.String(); text != "" {
			result.Output += ": " + text
		}
		return result
	}
	x.mu.Lock()
	if x.pid != 0 && x.code != nil { // else it could not be executed
		result.ExitCode = *x.code
	}
	x.mu.Unlock()
	return result
}

// kill ends an execution that still runs, with its descendants.
func (x *execution) kill(ctx context.Context) error {
	x.mu.Lock()
	running := x.running
	x.mu.Unlock()
	if !running {
		return nil
	}
	shim, err := x.container.engine.supervisor(ctx)
	if err != nil {
		return err
	}
	_, err = shim.Task.Kill(ctx, &task.KillRequest{ID: x.container.ID, ExecID: x.ID, Signal: uint32(unix.SIGKILL), All: true})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// head keeps the beginning of what is written to it.
type head struct {
	bytes.Buffer
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	room := h.limit - h.Len()
	if room > 0 {
		h.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (c *Container) healthPath() string { return filepath.Join(c.runDir(), "health.json") }

// readHealth is what an engine before this one knew of the run's health; nil if there is nothing.
func (c *Container) readHealth() *container.Health {
	text, err := os.ReadFile(c.healthPath())
	if err != nil {
		return nil
	}
	var h container.Health
	if err := json.Unmarshal(text, &h); err != nil || container.ValidateHealthStatus(h.Status) != nil {
		c.engine.log.Error("a container's health is unreadable", "container", c.ID, "error", err)
		return nil
	}
	return &h
}

func (c *Container) writeHealth(h *container.Health) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	path := c.healthPath()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// healthSummary is the state and how many checks have failed in a row.
func healthSummary(h *container.Health) *container.HealthSummary {
	if h == nil {
		return &container.HealthSummary{Status: container.NoHealthcheck}
	}
	return &container.HealthSummary{Status: h.Status, FailingStreak: h.FailingStreak}
}

// healthWords is what docker ps adds to the state of a running container.
func healthWords(h *container.Health) string {
	switch {
	case h == nil:
		return ""
	case h.Status == container.Starting:
		return " (health: starting)"
	}
	return " (" + string(h.Status) + ")"
}
