package docker

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"gantry/internal/engine"
)

func (s *server) ping(w *response, r *http.Request) error {
	h := w.Header()
	h["Cache-Control"] = []string{"no-cache, no-store, must-revalidate"}
	h["Pragma"] = []string{"no-cache"}
	h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	h["Content-Length"] = []string{"2"}
	h["Swarm"] = []string{"inactive"}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := io.WriteString(w, "OK")
	return err
}

// versionInfo adds what this layer alone knows: the versions of the API.
func (s *server) versionInfo(w *response, r *http.Request) error {
	info := s.backend.Version(r.Context())
	info.APIVersion, info.MinAPIVersion = MaxAPIVersion, MinAPIVersion
	if len(info.Components) > 0 { // docker's client shows these
		details := maps.Clone(info.Components[0].Details)
		if details == nil {
			details = map[string]string{}
		}
		details["ApiVersion"], details["MinAPIVersion"] = MaxAPIVersion, MinAPIVersion
		info.Components[0].Details = details
	}
	return w.json(http.StatusOK, info)
}

func (s *server) info(w *response, r *http.Request) error {
	info, err := s.backend.Info(r.Context())
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, info)
}

// events streams events. Without since, it asks for those since the request came: the client may act as soon as it has
// the header, and must not miss the event of its own act.
func (s *server) events(w *response, r *http.Request) error {
	came := time.Now()
	q := r.URL.Query()
	f, err := filters(q)
	if err != nil {
		return err
	}
	since, until, err := bounds(q)
	if err != nil {
		return err
	}
	if err := engine.CheckEventFilters(f); err != nil {
		return err
	}
	if since.IsZero() && until.IsZero() {
		since = came
	}
	media := types.MediaTypeJSON
	if w.version >= v(52) {
		media = eventMedia(r.Header.Values("Accept"))
	}
	w.Header()["Content-Type"] = []string{media}
	w.WriteHeader(http.StatusOK)
	w.Flush()
	err = s.backend.Events(r.Context(), engine.EventQuery{Since: since, Until: until, Filters: f}, func(m events.Message) error {
		if media == types.MediaTypeJSONSequence {
			if _, err := io.WriteString(w, "\x1e"); err != nil { // RFC 7464, section 2.2
				return err
			}
		}
		return w.line(eventFor(w.version, m))
	})
	if r.Context().Err() != nil {
		return nil // the client left, as it must
	}
	return err
}

// eventMedia chooses a type for a stream of JSON values: the first of ours that the client names at all.
func eventMedia(accept []string) string {
	for _, media := range []string{types.MediaTypeJSONLines, types.MediaTypeNDJSON, types.MediaTypeJSONSequence} {
		for _, a := range accept {
			if strings.Contains(a, media) {
				return media
			}
		}
	}
	return types.MediaTypeJSON
}
