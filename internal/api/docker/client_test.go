package docker

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"gantry/internal/engine"
)

// TestClientRoundTrip uses the real client at its oldest, a middle and the newest version.
func TestClientRoundTrip(t *testing.T) {
	for _, version := range []string{"", "1.40", "1.44", MaxAPIVersion} {
		f := &fake{}
		c := mobyClient(t, f, version)
		ctx := within(t)
		check := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s %s: %v", version, what, err)
			}
		}
		p, err := c.Ping(ctx, client.PingOptions{})
		check("ping", err)
		if p.APIVersion != MaxAPIVersion || p.OSType != "linux" {
			t.Errorf("ping: %+v", p)
		}
		created, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "one", Config: &container.Config{Image: "debian", Cmd: []string{"true"}}})
		check("create", err)
		if created.ID != "c1" || created.Warnings == nil {
			t.Errorf("create: %+v", created)
		}
		if f.created.Config.Image != "debian" || fmt.Sprint(f.created.Config.Cmd) != "[true]" {
			t.Errorf("create: the backend got %+v", f.created.Config.Config)
		}
		_, err = c.ContainerStart(ctx, "c1", client.ContainerStartOptions{})
		check("start", err)
		list, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
		check("list", err)
		if len(list.Items) != 1 || list.Items[0].ID != "c1" {
			t.Errorf("list: %+v", list)
		}
		in, err := c.ContainerInspect(ctx, "c1", client.ContainerInspectOptions{})
		check("inspect", err)
		if in.Container.NetworkSettings == nil || in.Container.NetworkSettings.SandboxID != "s1" {
			t.Errorf("inspect: %+v", in.Container)
		}
		f.err = engine.ErrNotModified
		_, err = c.ContainerStop(ctx, "c1", client.ContainerStopOptions{})
		check("stop of a stopped one", err)
	}
}

func TestOlderShapes(t *testing.T) {
	get := func(target string) (m map[string]any) {
		body := do(&fake{}, "GET", target, "").Body.Bytes()
		if body[0] == '[' {
			body = body[1 : len(body)-2]
		}
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		return m
	}
	old, now := get("/v1.41/containers/c1/json")["NetworkSettings"].(map[string]any), get("/containers/c1/json")["NetworkSettings"].(map[string]any)
	if old["EndpointID"] != "e1" || old["SandboxID"] != "s1" || old["IPPrefixLen"] != 16.0 || now["EndpointID"] != nil {
		t.Errorf("NetworkSettings: %v, %v", old, now)
	}
	if old, now := get("/v1.43/images/json"), get("/v1.48/images/json"); old["VirtualSize"] != 5.0 || now["VirtualSize"] != nil || old["Descriptor"] != nil || now["Descriptor"] == nil {
		t.Errorf("images: %v, %v", old, now)
	}
	if old, now := get("/v1.43/images/a/json"), get("/v1.48/images/a/json"); old["VirtualSize"] != 5.0 || now["VirtualSize"] != nil || old["Descriptor"] != nil || now["Descriptor"] == nil {
		t.Errorf("image: %v, %v", old, now)
	}
	if old, now := get("/v1.42/images/json"), get("/v1.43/images/json"); fmt.Sprint(old["RepoTags"]) != "[<none>:<none>]" || fmt.Sprint(now["RepoTags"]) != "[]" {
		t.Errorf("RepoTags: %v, %v", old["RepoTags"], now["RepoTags"])
	}
	if old, now := get("/v1.51/containers/json"), get("/v1.52/containers/json"); old["Health"] != nil || now["Health"] == nil {
		t.Errorf("Health: %v, %v", old, now)
	}
}
