package image

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// tokens is a token service: it gives a token to who knows the password, and remembers what it was sent.
type tokens struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	answer   func(w http.ResponseWriter)
}

func newTokens(t *testing.T, start func(http.Handler) *httptest.Server) *tokens {
	t.Helper()
	s := &tokens{}
	s.Server = start(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		text := q.Header.Get("Authorization")
		if err := q.ParseForm(); err == nil && q.Method == http.MethodPost {
			text = q.PostForm.Encode()
		}
		s.mu.Lock()
		s.requests = append(s.requests, text)
		answer := s.answer
		s.mu.Unlock()
		user, password, _ := q.BasicAuth()
		switch {
		case answer != nil:
			answer(w)
		case user == "user" && password == "secret", q.PostForm.Get("refresh_token") == "identity", q.PostForm.Get("password") == "secret":
			_ = json.NewEncoder(w).Encode(map[string]any{"token": "good", "access_token": "good", "expires_in": 60})
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// guard makes a registry want an Authorization header, and else give this challenge.
func guard(want, challenge string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, q *http.Request) bool {
		if q.Header.Get("Authorization") == want {
			return false
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func TestLogin(t *testing.T) {
	basic := &Auth{Username: "user", Password: "secret"}
	wrong := &Auth{Username: "user", Password: "guess"}
	for name, c := range map[string]struct {
		bearer bool
		auth   *Auth
		ok     bool
	}{
		"basic":                      {false, basic, true},
		"basic, wrong password":      {false, wrong, false},
		"basic, nothing":             {false, nil, false},
		"bearer":                     {true, basic, true},
		"bearer, wrong password":     {true, wrong, false},
		"bearer, nothing":            {true, nil, false},
		"bearer, an identity token":  {true, &Auth{IdentityToken: "identity"}, true},
		"bearer, a wrong one":        {true, &Auth{IdentityToken: "guess"}, false},
		"bearer, the registry token": {true, &Auth{RegistryToken: "good"}, true},
		"a wrong registry token":     {true, &Auth{RegistryToken: "bad"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s, service := context.Background(), newRegistry(t), newStore(t, Options{}), newTokens(t, httptest.NewServer)
			r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
			if c.bearer {
				r.setHook(guard("Bearer good", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:app:pull"`, service.URL)))
			} else {
				r.setHook(guard("Basic dXNlcjpzZWNyZXQ=", `Basic realm="test"`))
			}
			_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Auth: c.auth})
			if c.ok != (err == nil) || !c.ok && !errdefs.IsUnauthorized(err) {
				t.Errorf("want %v, got %v", c.ok, err)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "guess")) {
				t.Errorf("the password is in the message: %v", err)
			}
		})
	}
}

// TestTokenServer: a password goes to no token service that could be listened to, and its answer has a bound.
func TestTokenServer(t *testing.T) {
	secure := func(h http.Handler) *httptest.Server { return httptest.NewTLSServer(h) }
	plain := newTokens(t, httptest.NewServer)
	s := newStore(t, Options{Insecure: []string{"listed.example"}})
	for name, c := range map[string]struct {
		realm string
		ok    bool
	}{
		"plain, elsewhere": {"http://registry.example/token", false},
		"plain, listed":    {"http://listed.example/token", true},
		"plain, loopback":  {"http://127.0.0.1/token", true},
		"TLS, elsewhere":   {"https://registry.example/token", true},
		"no HTTP":          {"ftp://registry.example/token", false},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(c.realm)
			if err != nil {
				t.Fatal(err)
			}
			reached := false
			transport := &tokenTransport{insecure: s.insecure, next: roundTrip(func(*http.Request) (*http.Response, error) {
				reached = true
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
			})}
			response, err := transport.RoundTrip(&http.Request{Method: http.MethodGet, URL: u})
			if (err == nil) != c.ok || reached != c.ok {
				t.Errorf("reached %v, %v", reached, err)
			}
			if err == nil {
				_ = response.Body.Close()
			}
		})
	}
	t.Run("message", func(t *testing.T) {
		r := newRegistry(t)
		r.setHook(guard("Bearer good", `Bearer realm="http://registry.example/token",service="test"`))
		_, err := s.Pull(context.Background(), r.host()+"/app:1", PullOptions{Auth: &Auth{Username: "user", Password: "secret"}})
		if !errdefs.IsFailedPrecondition(err) || strings.Contains(err.Error(), "reached") {
			t.Errorf("%v", err)
		}
	})
	t.Run("endless answer", func(t *testing.T) {
		plain.answer = func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"token":"`))
			for range 100 {
				if _, err := w.Write([]byte(strings.Repeat("x", 1<<20))); err != nil {
					return
				}
			}
		}
		r := newRegistry(t)
		r.setHook(guard("Bearer good", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, plain.URL)))
		if _, err := s.Pull(context.Background(), r.host()+"/app:1", PullOptions{}); err == nil || !strings.Contains(err.Error(), "token service") {
			t.Errorf("%v", err)
		}
	})
	for name, answer := range map[string]string{"no JSON": "<html>", "another JSON": `{"token":{}}`, "no token": "{}", "nothing": ""} {
		t.Run("answers "+name, func(t *testing.T) {
			plain.answer = func(w http.ResponseWriter) { _, _ = w.Write([]byte(answer)) }
			r := newRegistry(t)
			r.setHook(guard("Bearer good", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, plain.URL)))
			if _, err := s.Pull(context.Background(), r.host()+"/app:1", PullOptions{}); !errdefs.IsInvalidArgument(err) && !errdefs.IsUnauthorized(err) && !errdefs.IsUnavailable(err) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("unverified TLS", func(t *testing.T) {
		service := newTokens(t, secure)
		u, err := url.Parse(service.URL)
		if err != nil {
			t.Fatal(err)
		}
		client := s.client("registry.example") // verifies: the certificate is the test's own
		response, err := client.Get(u.String())
		if err == nil {
			_ = response.Body.Close()
			t.Error("a certificate of nobody was taken")
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// TestCredentialsStay: what was given for one host is sent to no other, by redirect or by mirror.
func TestCredentialsStay(t *testing.T) {
	ctx := context.Background()
	var mu sync.Mutex
	var leaked []string
	watch := func(w http.ResponseWriter, q *http.Request) bool {
		if a := q.Header.Get("Authorization"); a != "" {
			mu.Lock()
			leaked = append(leaked, a)
			mu.Unlock()
		}
		return false
	}
	r, elsewhere := newRegistry(t), newRegistry(t)
	r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
	elsewhere.blobs = r.blobs
	elsewhere.setHook(watch)
	wantsLogin := guard("Basic dXNlcjpzZWNyZXQ=", `Basic realm="test"`)
	r.setHook(func(w http.ResponseWriter, q *http.Request) bool {
		if wantsLogin(w, q) {
			return true
		}
		if strings.Contains(q.URL.Path, "/blobs/") { // as registries do whose blobs are in a cloud's storage
			http.Redirect(w, q, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)+q.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	auth := &Auth{Username: "user", Password: "secret"}
	s := newStore(t, Options{})
	if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Auth: auth}); err != nil {
		t.Errorf("redirected: %v", err)
	}
	mirrored := newStore(t, Options{Mirrors: map[string][]string{r.host(): {elsewhere.URL}}})
	if _, err := mirrored.Pull(ctx, r.host()+"/app:1", PullOptions{Auth: auth}); err != nil {
		t.Errorf("mirrored: %v", err)
	}
	if len(leaked) != 0 {
		t.Errorf("sent elsewhere: %q", leaked)
	}
	if len(elsewhere.gets) == 0 {
		t.Error("nothing was asked elsewhere")
	}
}
