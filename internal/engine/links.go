package engine

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	netapi "github.com/moby/moby/api/types/network"

	"gantry/internal/network"
)

// link is one --link: another container of the default bridge, and the name that it gets in this one.
type link struct{ ID, Alias string }

var linkAlias = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// linksOf reads --link CONTAINER[:ALIAS].
func (e *Engine) linksOf(c *Config) ([]link, error) {
	var links []link
	for _, text := range c.HostConfig.Links {
		name, alias, found := strings.Cut(text, ":")
		if !found {
			alias = strings.TrimPrefix(name, "/")
		}
		// A container's description gives its links as /OTHER:/THIS/ALIAS, and may be sent back.
		if i := strings.LastIndexByte(alias, '/'); i >= 0 {
			alias = alias[i+1:]
		}
		if name == "" || !linkAlias.MatchString(alias) {
			return nil, refuse("bad format for links: %s", text)
		}
		if !onBridge(c.HostConfig.NetworkMode) {
			return nil, refuse("conflicting options: links are of the default bridge, and the network is %s", c.HostConfig.NetworkMode)
		}
		other, err := e.lookup(name)
		if err != nil {
			return nil, fmt.Errorf("could not get container for %s: %w", name, err)
		}
		if mode := other.view().record.Config.HostConfig.NetworkMode; !onBridge(mode) {
			return nil, refuse("cannot link to %s: its network is %s, not the default bridge", name, mode)
		}
		links = append(links, link{other.ID, alias})
	}
	return links, nil
}

// linked is the other container of a link; it must run, so that it has an address.
func (e *Engine) linked(l link) (*Container, view, error) {
	other, err := e.lookup(l.ID)
	if err != nil {
		return nil, view{}, fmt.Errorf("link %s: %w", l.Alias, err)
	}
	v := other.view()
	if !v.phase.alive() || v.run.Endpoint == nil {
		return nil, view{}, fmt.Errorf("Cannot link to a non running container: /%s AS %s%w", v.record.Name, l.Alias, noText{errdefs.ErrConflict})
	}
	return other, v, nil
}

// linkHosts are the lines of /etc/hosts that links add: alias, host name and name of each container. A container that
// does not run has none.
func (e *Engine) linkHosts(links []link) []network.HostEntry {
	var lines []network.HostEntry
	for _, l := range links {
		other, v, err := e.linked(l)
		if err != nil {
			continue
		}
		names := []string{l.Alias, other.hostname(v.record)}
		if v.record.Name != l.Alias {
			names = append(names, v.record.Name)
		}
		lines = append(lines, network.HostEntry{IP: v.run.Endpoint.IP.Addr(), Names: names})
	}
	return lines
}

// linkEnvironment are the variables that links add, docker's legacy ones.
func (e *Engine) linkEnvironment(ctx context.Context, rec record) ([]string, error) {
	var env []string
	for _, l := range rec.Links {
		_, v, err := e.linked(l)
		if err != nil {
			return nil, err
		}
		img, err := e.images.Get(ctx, v.record.Image.ID.String(), &v.record.Image.Platform)
		if err != nil {
			return nil, err
		}
		prefix, address := strings.ToUpper(strings.ReplaceAll(l.Alias, "-", "_")), v.run.Endpoint.IP.Addr().String()
		env = append(env, fmt.Sprintf("%s_NAME=/%s/%s", prefix, rec.Name, l.Alias))
		for i, p := range sortedPorts(exposed(&v.record.Config, img)) {
			port, proto := p.Num(), string(p.Proto())
			url := fmt.Sprintf("%s://%s:%d", proto, address, port)
			if i == 0 {
				env = append(env, prefix+"_PORT="+url)
			}
			base := fmt.Sprintf("%s_PORT_%d_%s", prefix, port, strings.ToUpper(proto))
			env = append(env, base+"="+url, base+"_ADDR="+address, fmt.Sprintf("%s_PORT=%d", base, port), base+"_PROTO="+proto)
		}
		for _, entry := range slices.Concat(img.Config.Config.Env, v.record.Config.Env) {
			name, value, found := strings.Cut(entry, "=")
			if found && name != "HOME" && name != "PATH" {
				env = append(env, fmt.Sprintf("%s_ENV_%s=%s", prefix, name, value))
			}
		}
	}
	return env, nil
}

func sortedPorts(set netapi.PortSet) []netapi.Port {
	var list []netapi.Port
	for p := range set {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b netapi.Port) int {
		if a.Num() != b.Num() {
			return int(a.Num()) - int(b.Num())
		}
		return strings.Compare(string(a.Proto()), string(b.Proto()))
	})
	return list
}

// tellLinked writes the hosts files of running containers that link to this one, which may have another address now.
func (c *Container) tellLinked() {
	for _, other := range c.engine.all() {
		v := other.view()
		if !v.phase.alive() || v.run.Endpoint == nil || !slices.ContainsFunc(v.record.Links, func(l link) bool { return l.ID == c.ID }) {
			continue
		}
		if err := other.writeHostFiles(v.record, v.run.Endpoint); err != nil {
			c.engine.log.Error("tell a linked container's address", "container", other.ID, "linked", c.ID, "error", err)
		}
	}
}

// linkTexts are the links as inspect shows them: /OTHER:/THIS/ALIAS.
func (e *Engine) linkTexts(rec record) []string {
	var list []string
	for _, l := range rec.Links {
		if other, err := e.lookup(l.ID); err == nil { // else it was removed
			list = append(list, fmt.Sprintf("/%s:/%s/%s", other.view().record.Name, rec.Name, l.Alias))
		}
	}
	return list
}
