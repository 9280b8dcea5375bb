package docker

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"gantry/internal/engine"
)

// describe puts what is known of a file into the header that docker's clients read it from.
func (w *response) describe(stat *container.PathStat) error {
	text, err := json.Marshal(stat)
	if err != nil {
		return err
	}
	w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(text))
	return nil
}

// archivePath is the query's path, which must not be empty.
func archivePath(r *http.Request) (string, error) {
	if p := r.URL.Query().Get("path"); p != "" {
		return p, nil
	}
	return "", badRequest("bad parameter: 'path' cannot be empty")
}

func (s *server) archiveHead(w *response, r *http.Request) error {
	name, err := archivePath(r)
	if err != nil {
		return err
	}
	stat, err := s.backend.StatPath(r.Context(), r.PathValue("id"), name)
	if err != nil {
		return err
	}
	return w.describe(stat)
}

func (s *server) archiveGet(w *response, r *http.Request) error {
	if r.Method == http.MethodHead {
		return s.archiveHead(w, r)
	}
	name, err := archivePath(r)
	if err != nil {
		return err
	}
	return s.backend.ReadArchive(r.Context(), r.PathValue("id"), name, func(stat *container.PathStat) io.Writer {
		w.Header().Set("Content-Type", "application/x-tar")
		if err := w.describe(stat); err != nil { // a client without it fails by itself
			slog.Warn("describe a file", "path", name, "error", err)
		}
		return w
	})
}

func (s *server) archivePut(w *response, r *http.Request) error {
	name, err := archivePath(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	o := engine.ExtractOptions{KeepKinds: boolean(q, "noOverwriteDirNonDir"), ToUser: boolean(q, "copyUIDGID")}
	if err := s.backend.ExtractArchive(r.Context(), r.PathValue("id"), name, requestBody{r.Body}, o); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *server) containerExport(w *response, r *http.Request) error {
	return s.backend.ExportContainer(r.Context(), r.PathValue("id"), func() io.Writer {
		w.Header().Set("Content-Type", "application/octet-stream")
		return w
	})
}

func (s *server) containerChanges(w *response, r *http.Request) error {
	list, err := s.backend.ChangesContainer(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, list)
}
