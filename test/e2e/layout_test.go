package e2e

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// writeLayout packs a directory as an OCI image layout of one gzip layer.
func writeLayout(layout, rootfs string, command []string) error {
	blobs := filepath.Join(layout, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	layer, diffID, err := writeLayer(blobs, rootfs)
	if err != nil {
		return err
	}
	config, err := writeJSON(blobs, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": command, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diffID}},
	})
	if err != nil {
		return err
	}
	config["mediaType"] = "application/vnd.oci.image.config.v1+json"
	layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
	manifest, err := writeJSON(blobs, map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer},
	})
	if err != nil {
		return err
	}
	manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(layout, "index.json"), index, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)
}

func writeJSON(blobs string, v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return descriptor(sum[:], int64(len(text))), os.WriteFile(filepath.Join(blobs, hex.EncodeToString(sum[:])), text, 0o600)
}

func descriptor(sum []byte, size int64) map[string]any {
	return map[string]any{"digest": "sha256:" + hex.EncodeToString(sum), "size": size}
}

func writeLayer(blobs, rootfs string) (layer map[string]any, diffID string, err error) {
	cmd := exec.Command("tar", "-C", rootfs, "--numeric-owner", "--xattrs", "--one-file-system", "-c", ".")
	cmd.Stderr = os.Stderr
	tar, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	temp := filepath.Join(blobs, "layer")
	f, err := os.Create(temp)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	plain, packed := sha256.New(), sha256.New()
	zip, err := gzip.NewWriterLevel(io.MultiWriter(f, packed), gzip.BestSpeed)
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	if _, err := io.Copy(io.MultiWriter(zip, plain), tar); err != nil {
		return nil, "", err
	}
	if err := cmd.Wait(); err != nil {
		return nil, "", fmt.Errorf("tar: %w", err)
	}
	if err := zip.Close(); err != nil {
		return nil, "", err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	sum := packed.Sum(nil)
	return descriptor(sum, info.Size()), "sha256:" + hex.EncodeToString(plain.Sum(nil)), os.Rename(temp, filepath.Join(blobs, hex.EncodeToString(sum)))
}
