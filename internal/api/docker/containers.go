package docker

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/container"

	"gantry/internal/engine"
)

// whole is a request's context without its end: a change of state that was begun is finished, whether or not the client
// stays to hear of it.
func whole(r *http.Request) context.Context { return context.WithoutCancel(r.Context()) }

func (s *server) containerList(w *response, r *http.Request) error {
	q := r.URL.Query()
	f, err := filters(q)
	if err != nil {
		return err
	}
	limit, err := integer(q, "limit")
	if err != nil {
		return err
	}
	o := engine.ListOptions{All: boolean(q, "all"), Size: boolean(q, "size"), Filters: f}
	if limit != nil {
		o.Limit = *limit
	}
	for _, key := range []string{"since", "before"} { // parameters of their own before they were filters
		if name := q.Get(key); name != "" {
			o.Filters[key] = map[string]bool{name: true}
		}
	}
	list, err := s.backend.ListContainers(r.Context(), o)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, summariesFor(w.version, list))
}

func (s *server) containerCreate(w *response, r *http.Request) error {
	q := r.URL.Query()
	p, err := platform(q)
	if err != nil {
		return err
	}
	var body createBody
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	warnings, err := body.normalize(w.version)
	if err != nil {
		return err
	}
	created, err := s.backend.CreateContainer(whole(r), engine.CreateRequest{
		Name: strings.TrimPrefix(q.Get("name"), "/"), Platform: p, Config: body.CreateRequest,
	})
	if err != nil {
		return err
	}
	created.Warnings = append(warnings, created.Warnings...)
	return w.json(http.StatusCreated, created)
}

// plan answers a create request by the system calls that would make the container, in words. Nothing is created.
func (s *server) plan(w *response, r *http.Request) error {
	p, err := platform(r.URL.Query())
	if err != nil {
		return err
	}
	var body createBody
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	if _, err := body.normalize(w.version); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := s.backend.PlanContainer(r.Context(), engine.CreateRequest{Platform: p, Config: body.CreateRequest}, &text); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err = text.WriteTo(w)
	return err
}

func (s *server) containerInspect(w *response, r *http.Request) error {
	c, err := s.backend.InspectContainer(r.Context(), r.PathValue("id"), boolean(r.URL.Query(), "size"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, inspectFor(w.version, c))
}

func (s *server) containerTop(w *response, r *http.Request) error {
	top, err := s.backend.TopContainer(r.Context(), r.PathValue("id"), r.URL.Query().Get("ps_args"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, top)
}

func (s *server) containerStats(w *response, r *http.Request) error {
	q := r.URL.Query()
	stream := booleanOr(q, "stream", true)
	oneShot := boolean(q, "one-shot") && w.version >= v(41)
	if stream && oneShot {
		return badRequest("cannot have stream=true and one-shot=true")
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	return s.backend.StatsContainer(r.Context(), r.PathValue("id"), stream, oneShot, func(st *container.StatsResponse) error {
		return w.line(st)
	})
}

func (s *server) containerStart(w *response, r *http.Request) error {
	if r.ContentLength > 7 || r.ContentLength == -1 { // 7: the least that a JSON object with a field needs
		return badRequest("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if r.URL.Query().Get("checkpoint") != "" {
		return missing("starting from a checkpoint")(w, r)
	}
	return w.noContent(s.backend.StartContainer(whole(r), r.PathValue("id")))
}

// stopParameters are those of stop and restart.
func stopParameters(w *response, r *http.Request) (signal string, timeout *int, err error) {
	q := r.URL.Query()
	if w.version >= v(42) {
		signal = q.Get("signal")
	}
	timeout, err = integer(q, "t")
	return signal, timeout, err
}

func (s *server) containerStop(w *response, r *http.Request) error {
	signal, timeout, err := stopParameters(w, r)
	if err != nil {
		return err
	}
	return w.noContent(s.backend.StopContainer(whole(r), r.PathValue("id"), signal, timeout))
}

func (s *server) containerRestart(w *response, r *http.Request) error {
	signal, timeout, err := stopParameters(w, r)
	if err != nil {
		return err
	}
	return w.noContent(s.backend.RestartContainer(whole(r), r.PathValue("id"), signal, timeout))
}

func (s *server) containerKill(w *response, r *http.Request) error {
	return w.noContent(s.backend.KillContainer(whole(r), r.PathValue("id"), r.URL.Query().Get("signal")))
}

func (s *server) containerPause(w *response, r *http.Request) error {
	return w.noContent(s.backend.PauseContainer(whole(r), r.PathValue("id")))
}

func (s *server) containerUnpause(w *response, r *http.Request) error {
	return w.noContent(s.backend.UnpauseContainer(whole(r), r.PathValue("id")))
}

func (s *server) containerRename(w *response, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Query().Get("name"), "/")
	if name == "" {
		return badRequest("Neither old nor new names may be empty")
	}
	return w.noContent(s.backend.RenameContainer(whole(r), r.PathValue("id"), name))
}

func (s *server) containerUpdate(w *response, r *http.Request) error {
	var u container.UpdateConfig
	if err := readJSON(w, r, &u); err != nil {
		return err
	}
	if w.version < v(40) {
		u.PidsLimit = nil
	}
	if w.version < v(55) {
		u.BlkioWeightDevice, u.BlkioDeviceReadBps, u.BlkioDeviceWriteBps, u.BlkioDeviceReadIOps, u.BlkioDeviceWriteIOps = nil, nil, nil, nil, nil
	}
	if u.PidsLimit != nil && *u.PidsLimit <= 0 { // every negative number has meant "unlimited" too
		u.PidsLimit = new(int64)
	}
	answer, err := s.backend.UpdateContainer(whole(r), r.PathValue("id"), u)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, answer)
}

func (s *server) containerResize(w *response, r *http.Request) error {
	height, width, err := size(r.URL.Query())
	if err != nil {
		return err
	}
	if err := s.backend.ResizeContainer(r.Context(), r.PathValue("id"), height, width); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *server) containerRemove(w *response, r *http.Request) error {
	q := r.URL.Query()
	return w.noContent(s.backend.RemoveContainer(whole(r), r.PathValue("id"), engine.RemoveOptions{
		Force: boolean(q, "force"), Volumes: boolean(q, "v"), Link: boolean(q, "link"),
	}))
}

func (s *server) containerPrune(w *response, r *http.Request) error {
	f, err := filters(r.URL.Query())
	if err != nil {
		return err
	}
	report, err := s.backend.PruneContainers(whole(r), f)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, report)
}

// containerWait sends the header as soon as the backend waits: clients start the container when they see it.
func (s *server) containerWait(w *response, r *http.Request) error {
	condition := container.WaitCondition(r.URL.Query().Get("condition"))
	switch condition {
	case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	case "":
		condition = container.WaitConditionNotRunning
	default:
		return badRequest("invalid condition: %q", condition)
	}
	results, err := s.backend.WaitContainer(r.Context(), r.PathValue("id"), condition)
	if err != nil {
		return err
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	w.WriteHeader(http.StatusOK)
	w.Flush()
	select {
	case <-r.Context().Done():
		return nil // nobody is there to be told
	case result, ok := <-results:
		if !ok {
			result = engine.WaitResult{Err: "the engine stopped waiting"}
		}
		answer := container.WaitResponse{StatusCode: int64(result.Status)}
		if result.Err != "" {
			answer.Error = &container.WaitExitError{Message: result.Err}
		}
		return w.line(answer)
	}
}
