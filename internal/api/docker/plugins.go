package docker

import (
	"net/http"

	"github.com/containerd/errdefs"
)

// pluginList: there are no plugins. docker inspect looks for everything that a name may stand for.
func (s *server) pluginList(w *response, r *http.Request) error {
	if _, err := filters(r.URL.Query()); err != nil {
		return err
	}
	return w.json(http.StatusOK, []struct{}{})
}

func (s *server) pluginInspect(_ *response, r *http.Request) error {
	return errdefs.ErrNotFound.WithMessage("plugin \"" + r.PathValue("name") + "\" not found")
}
