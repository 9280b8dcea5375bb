package docker

import (
	"net/http"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"gantry/internal/engine"
)

func (s *server) volumeList(w *response, r *http.Request) error {
	f, err := filters(r.URL.Query())
	if err != nil {
		return err
	}
	list, err := s.backend.ListVolumes(r.Context(), f)
	if err != nil {
		return err
	}
	if list.Volumes == nil {
		list.Volumes = []volume.Volume{}
	}
	if list.Warnings == nil {
		list.Warnings = []string{}
	}
	return w.json(http.StatusOK, list)
}

func (s *server) volumeCreate(w *response, r *http.Request) error {
	var body volume.CreateRequest
	if err := readOptionalJSON(w, r, &body); err != nil {
		return err
	}
	if body.ClusterVolumeSpec != nil {
		return noSwarm(w, r)
	}
	vol, err := s.backend.CreateVolume(whole(r), body)
	if err != nil {
		return err
	}
	return w.json(http.StatusCreated, vol)
}

func (s *server) volumeInspect(w *response, r *http.Request) error {
	vol, err := s.backend.InspectVolume(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, vol)
}

func (s *server) volumeRemove(w *response, r *http.Request) error {
	return w.noContent(s.backend.RemoveVolume(whole(r), r.PathValue("name"), boolean(r.URL.Query(), "force")))
}

// volumePrune takes anonymous volumes only, unless filters ask for all; before 1.42 all was the only way.
func (s *server) volumePrune(w *response, r *http.Request) error {
	f, err := filters(r.URL.Query())
	if err != nil {
		return err
	}
	if w.version < v(42) {
		f["all"] = map[string]bool{"true": true}
	}
	report, err := s.backend.PruneVolumes(whole(r), f)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, report)
}

func (s *server) networkList(w *response, r *http.Request) error {
	f, err := filters(r.URL.Query())
	if err != nil {
		return err
	}
	list, err := s.backend.ListNetworks(r.Context(), f)
	if err != nil {
		return err
	}
	if list == nil {
		list = []network.Inspect{}
	}
	return w.json(http.StatusOK, list)
}

// networkPrune has nothing to do: networks cannot be made here, so none can be unused. docker system prune asks all the same.
func (s *server) networkPrune(w *response, r *http.Request) error {
	f, err := filters(r.URL.Query())
	if err != nil {
		return err
	}
	if err := engine.CheckPruneFilters(f); err != nil {
		return err
	}
	return w.json(http.StatusOK, network.PruneReport{NetworksDeleted: []string{}})
}

// buildPrune has nothing to do either: nothing is built here, so there is no build cache.
func (s *server) buildPrune(w *response, r *http.Request) error {
	f, err := filters(r.URL.Query())
	if err != nil {
		return err
	}
	for key := range f {
		switch key {
		case "until", "unused-for", "id", "label", "type", "shared", "private", "inuse", "parent", "description":
		default:
			return badRequest("invalid filter '%s'", key)
		}
	}
	return w.json(http.StatusOK, build.CachePruneReport{CachesDeleted: []string{}})
}

func (s *server) networkInspect(w *response, r *http.Request) error {
	n, err := s.backend.InspectNetwork(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, n)
}
