package engine

import (
	"slices"
	"testing"

	"github.com/moby/moby/api/types/container"
	netapi "github.com/moby/moby/api/types/network"
)

func TestLinksOf(t *testing.T) {
	store := &Container{ID: "0123456789abcdef"}
	store.record.Config.HostConfig = &container.HostConfig{NetworkMode: "default"}
	lonely := &Container{ID: "fedcba9876543210"}
	lonely.record.Config.HostConfig = &container.HostConfig{NetworkMode: "none"}
	e := &Engine{
		containers: map[string]*Container{store.ID: store, lonely.ID: lonely},
		names:      map[string]string{"store": store.ID, "lonely": lonely.ID},
	}
	parse := func(mode container.NetworkMode, texts ...string) ([]link, error) {
		return e.linksOf(&Config{HostConfig: &container.HostConfig{NetworkMode: mode, Links: texts}})
	}
	got, err := parse("default", "store", "/store:db", "0123:x", "/store:/user/again")
	want := []link{{store.ID, "store"}, {store.ID, "db"}, {store.ID, "x"}, {store.ID, "again"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"", ":", "store:", "store:a b", "nobody", "lonely"} {
		if got, err := parse("default", text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	if _, err := parse("host", "store"); err == nil {
		t.Error("links without the bridge")
	}
}

func TestSortedPorts(t *testing.T) {
	set := netapi.PortSet{}
	for _, text := range []string{"80/udp", "443/tcp", "80/tcp"} {
		p, err := netapi.ParsePort(text)
		if err != nil {
			t.Fatal(err)
		}
		set[p] = struct{}{}
	}
	var got []string
	for _, p := range sortedPorts(set) {
		got = append(got, p.String())
	}
	if !slices.Equal(got, []string{"80/tcp", "80/udp", "443/tcp"}) {
		t.Errorf("got %v", got)
	}
}
