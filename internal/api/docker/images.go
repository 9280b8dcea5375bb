package docker

import (
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/image"
)

func (s *server) imageList(w *response, r *http.Request) error {
	q := r.URL.Query()
	f, err := filters(q)
	if err != nil {
		return err
	}
	if name := q.Get("filter"); name != "" && w.version < v(28) {
		f["reference"] = map[string]bool{name: true}
	}
	list, err := s.backend.ListImages(r.Context(), boolean(q, "all"), f)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, imagesFor(w.version, list))
}

// lastSegment splits "NAME/verb"; ok is false unless both are there.
func lastSegment(path string) (name, verb string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return "", "", false
	}
	return path[:i], path[i+1:], true
}

// imageGet is GET /images/NAME/VERB.
func (s *server) imageGet(w *response, r *http.Request) error {
	name, verb, ok := lastSegment(r.PathValue("name"))
	if !ok {
		return notFound(w, r)
	}
	switch verb {
	case "json":
		return s.imageInspect(w, r, name)
	case "history":
		return s.imageHistory(w, r, name)
	case "get":
		return missing("saving images")(w, r)
	case "attestations":
		return missing("listing an image's attestations")(w, r)
	}
	return notFound(w, r)
}

// imagePost is POST /images/NAME/VERB.
func (s *server) imagePost(w *response, r *http.Request) error {
	name, verb, ok := lastSegment(r.PathValue("name"))
	if !ok {
		return notFound(w, r)
	}
	switch verb {
	case "tag":
		return s.imageTag(w, r, name)
	case "push":
		return missing("pushing images")(w, r)
	}
	return notFound(w, r)
}

func (s *server) imageInspect(w *response, r *http.Request, name string) error {
	p, err := platform(r.URL.Query())
	if err != nil {
		return err
	}
	im, err := s.backend.InspectImage(r.Context(), name, p)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, imageFor(w.version, im))
}

func (s *server) imageHistory(w *response, r *http.Request, name string) error {
	p, err := platform(r.URL.Query())
	if err != nil {
		return err
	}
	history, err := s.backend.HistoryImage(r.Context(), name, p)
	if err != nil {
		return err
	}
	if history == nil {
		history = []image.HistoryResponseItem{}
	}
	return w.json(http.StatusOK, history)
}

func (s *server) imageTag(w *response, r *http.Request, name string) error {
	q := r.URL.Query()
	target, tag := q.Get("repo"), q.Get("tag")
	if target == "" {
		return badRequest("tag image %s: the parameter repo is empty", name)
	}
	if tag != "" {
		target += ":" + tag
	}
	if err := s.backend.TagImage(whole(r), name, target); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *server) imageRemove(w *response, r *http.Request) error {
	q := r.URL.Query()
	if q.Has("platforms") {
		return missing("removing single platforms of an image")(w, r)
	}
	removed, err := s.backend.RemoveImage(whole(r), r.PathValue("name"), boolean(q, "force"), boolean(q, "noprune"))
	if err != nil {
		return err
	}
	if removed == nil {
		removed = []image.DeleteResponse{}
	}
	return w.json(http.StatusOK, removed)
}

func (s *server) imagePrune(w *response, r *http.Request) error {
	f, err := filters(r.URL.Query())
	if err != nil {
		return err
	}
	report, err := s.backend.PruneImages(whole(r), f)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, report)
}
