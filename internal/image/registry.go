package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/internal/printable"
)

// resolver speaks to the registry of a reference: to its mirrors first, over HTTPS unless the host is loopback or
// listed as insecure, with the given credentials.
func (s *Store) resolver(named reference.Named, auth *Auth, faults *faults) remotes.Resolver {
	domain := reference.Domain(named)
	return docker.NewResolver(docker.ResolverOptions{Hosts: func(host string) ([]docker.RegistryHost, error) {
		own, err := s.registry(host, host == domain, auth)
		if err != nil {
			return nil, err
		}
		own.Client.Transport = &manifestTransport{own.Client.Transport, faults}
		var hosts []docker.RegistryHost
		for _, base := range s.o.Mirrors[host] {
			u, err := url.Parse(base)
			if err != nil || u.Host == "" {
				return nil, fmt.Errorf("mirror %q of %s: want a URL: %w", base, host, errdefs.ErrInvalidArgument)
			}
			client := s.client(u.Host)
			client.Transport = &manifestTransport{client.Transport, faults}
			hosts = append(hosts, docker.RegistryHost{
				Client: client, Authorizer: s.authorizer(s.client(u.Host), nil), Host: u.Host, Scheme: u.Scheme,
				Path: strings.TrimSuffix(u.Path, "/") + "/v2", Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			})
		}
		return append(hosts, own), nil
	}})
}

// registry describes a host; credentials are sent to the one that they were given for.
func (s *Store) registry(host string, own bool, auth *Auth) (docker.RegistryHost, error) {
	address, err := docker.DefaultHost(host)
	if err != nil {
		return docker.RegistryHost{}, err
	}
	r := docker.RegistryHost{Client: s.client(address), Host: address, Scheme: "https", Path: "/v2", Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve}
	if s.insecure(address) {
		r.Scheme = "http"
		// A registry of TLS on such a host says so by its answer to plain HTTP.
		r.Client.Transport = &eitherScheme{next: r.Client.Transport}
	}
	if !own {
		auth = nil
	}
	r.Authorizer = s.authorizer(r.Client, auth)
	if auth != nil && auth.RegistryToken != "" {
		r.Header = http.Header{"Authorization": {"Bearer " + auth.RegistryToken}}
		r.Authorizer = nil
	}
	return r, nil
}

func (s *Store) authorizer(client *http.Client, auth *Auth) docker.Authorizer {
	client = &http.Client{Transport: &tokenTransport{next: client.Transport, insecure: s.insecure}}
	return docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(func(string) (string, string, error) {
		switch {
		case auth == nil:
			return "", "", nil
		case auth.IdentityToken != "":
			return "", auth.IdentityToken, nil
		}
		return auth.Username, auth.Password, nil
	}))
}

func (s *Store) client(host string) *http.Client {
	config := &tls.Config{InsecureSkipVerify: s.insecure(host)}
	return &http.Client{Transport: docker.DefaultHTTPTransport(config)}
}

// insecure tells hosts that need no certificate: loopback, and those configured by name, host:port or network.
func (s *Store) insecure(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if local, err := docker.MatchLocalhost(host); err == nil && local {
		return true
	}
	ip, ipErr := netip.ParseAddr(host)
	for _, entry := range s.o.Insecure {
		if entry == host || entry == hostport {
			return true
		}
		if network, err := netip.ParsePrefix(entry); err == nil && ipErr == nil && network.Contains(ip) {
			return true
		}
	}
	return false
}

// tokenTransport asks token services. It is a registry that says which, so a password goes there over TLS only, but for
// insecure hosts, and the answer has a bound.
type tokenTransport struct {
	next     http.RoundTripper
	insecure func(hostport string) bool
}

const maxTokenAnswer = 1 << 20

func (t *tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || !t.insecure(r.URL.Host)) {
		return nil, fmt.Errorf("the registry's token service %s://%s is not asked: its host is not listed as insecure: %w", r.URL.Scheme, r.URL.Host, errdefs.ErrFailedPrecondition)
	}
	response, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body = &tokenAnswer{response.Body, maxTokenAnswer}
	return response, nil
}

type tokenAnswer struct {
	io.ReadCloser
	left int
}

func (a *tokenAnswer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if a.left -= n; a.left < 0 {
		return 0, fmt.Errorf("the token service answered with more than %d bytes: %w", maxTokenAnswer, errdefs.ErrInvalidArgument)
	}
	return n, err
}

// eitherScheme asks again over TLS where a host answers plain HTTP with "you spoke HTTP to an HTTPS server".
type eitherScheme struct{ next http.RoundTripper }

func (e *eitherScheme) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := e.next.RoundTrip(r)
	if err != nil || response.StatusCode != http.StatusBadRequest || r.URL.Scheme != "http" || r.Body != nil {
		return response, err
	}
	again := r.Clone(r.Context())
	again.URL.Scheme = "https"
	secure, err := e.next.RoundTrip(again)
	if err != nil {
		return response, nil
	}
	_ = response.Body.Close() // the answer that counts is the other
	return secure, nil
}

// faults remember the first answer of a registry that was rejected here. The registry's client, which gets an error
// instead of the answer, tries other addresses, and may report what those say.
type faults struct {
	mu    sync.Mutex // guards first
	first error
}

func (f *faults) add(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		f.first = err
	}
	return err
}

// or returns the fault if there is one and err is not nil, otherwise err.
func (f *faults) or(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.first != nil {
		return f.first
	}
	return err
}

// manifestTransport rejects answers about manifests that cannot be right, and bounds those that do not end.
type manifestTransport struct {
	next   http.RoundTripper
	faults *faults
}

func (t *manifestTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(r)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(r.URL.Path, "/manifests/") {
		return response, err
	}
	header := response.Header.Get("Docker-Content-Digest")
	if header != "" {
		err = checkDigest(digest.Digest(header))
	}
	switch {
	case err != nil:
		err = fmt.Errorf("the registry %s answered with a digest that is not valid: %w", r.URL.Host, err)
	case response.ContentLength > maxManifest:
		err = fmt.Errorf("the registry %s offers a manifest of %d bytes, more than %d: %w", r.URL.Host, response.ContentLength, maxManifest, errdefs.ErrInvalidArgument)
	default:
		response.Body = &manifestBody{response.Body, t.faults, r.URL.Host, maxManifest}
		return response, nil
	}
	_ = response.Body.Close() // its content does not matter
	return nil, t.faults.add(err)
}

type manifestBody struct {
	io.ReadCloser
	faults *faults
	host   string
	left   int
}

func (b *manifestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, b.faults.add(fmt.Errorf("the registry %s sends a manifest of more than %d bytes: %w", b.host, maxManifest, errdefs.ErrInvalidArgument))
	}
	return n, err
}

// classify gives an error of the registry's client the class that the API needs.
// The text of the error may be the registry's: it is made safe to print.
func classify(ctx context.Context, err error) error {
	err = printable.Error(err)
	var status remoteerrors.ErrUnexpectedStatus
	var network *net.OpError // not net.Error, which every syscall.Errno is
	switch {
	case err == nil, ctx.Err() != nil: // the caller's own doing
		return err
	case errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err), errdefs.IsDataLoss(err): // said by us
		return err
	case errors.As(err, &status):
		return fmt.Errorf("%w: %w", err, statusClass(status.StatusCode))
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnauthenticated)
	case errors.As(err, &network), errors.As(err, new(*url.Error)):
		return fmt.Errorf("the registry cannot be reached: %w: %w", err, errdefs.ErrUnavailable)
	}
	return err
}

// badAnswer gives a class to an error of the conversation with a registry that has none: nothing of this machine is
// concerned yet, so an answer was not understood.
func badAnswer(ctx context.Context, err error) error {
	var local syscall.Errno
	if ctx.Err() != nil || errors.As(err, &local) || !errdefs.IsUnknown(errdefs.Resolve(err)) {
		return err
	}
	return fmt.Errorf("the registry's answer is not understood: %w: %w", err, errdefs.ErrInvalidArgument)
}

// statusClass is the class of what a registry answers; see the distribution specification, "error codes".
func statusClass(code int) error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("pull access denied, the repository does not exist or needs a login: %w", errdefs.ErrUnauthenticated)
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusTooManyRequests:
		return errdefs.ErrUnavailable
	}
	if code >= http.StatusInternalServerError {
		return errdefs.ErrUnavailable
	}
	if code >= http.StatusBadRequest {
		return fmt.Errorf("the registry rejects the request: %w", errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("the registry's answer is not understood: %w", errdefs.ErrUnavailable) // such as a redirection to nowhere
}
