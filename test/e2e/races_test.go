package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// request makes a request of the API and returns the status and the body.
func (d *daemon) request(method, path, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", strings.TrimPrefix(d.host, "unix://"))
	}}}
	r, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// TestRacesOnOneContainer runs pairs of operations on one container at once, each with each. Whoever loses is told of a
// conflict, or that there is nothing to be done; nobody fails inside, and what is said afterwards is so.
func TestRacesOnOneContainer(t *testing.T) {
	const container = "/containers/raced"
	exec := func() (int, string, error) {
		status, body, err := shared.request("POST", container+"/exec", `{"Cmd":["true"],"AttachStdout":true}`)
		if status != http.StatusCreated {
			return status, body, err
		}
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(body), &made); err != nil {
			return 0, body, err
		}
		return shared.request("POST", "/exec/"+made.ID+"/start", `{"Detach":true}`)
	}
	call := func(method, path string) func() (int, string, error) {
		return func() (int, string, error) { return shared.request(method, container+path, "") }
	}
	operations := map[string]func() (int, string, error){
		"pause": call("POST", "/pause"), "unpause": call("POST", "/unpause"), "kill": call("POST", "/kill"), "start": call("POST", "/start"),
		"stop": call("POST", "/stop?t=0"), "restart": call("POST", "/restart?t=0"), "rm": call("DELETE", ""), "rm -f": call("DELETE", "?force=1"),
		"exec": exec,
	}
	names := []string{"pause", "unpause", "kill", "start", "stop", "restart", "rm", "rm -f", "exec"}
	states := []string{"running", "paused", "stopped", "restarting"}
	defer func() { _, _, _ = shared.request("DELETE", container+"?force=1", "") }()
	round := func(first, second, state string) {
		what := fmt.Sprintf("%s and %s of a %s container", first, second, state)
		policy, script := "no", "exec sleep 1000"
		if state == "restarting" {
			policy, script = "always", "exit 1"
		}
		create := fmt.Sprintf(`{"Image":"toolbox","Cmd":["sh","-c",%q],"HostConfig":{"NetworkMode":"none","RestartPolicy":{"Name":%q}}}`, script, policy)
		if status, body, err := shared.request("POST", "/containers/create?name=raced", create); status != http.StatusCreated && status != http.StatusConflict || err != nil {
			t.Fatalf("create: %d %s %v", status, body, err)
		}
		if state != "stopped" {
			_, _, _ = operations["start"]()
		}
		if state == "paused" {
			_, _, _ = operations["pause"]()
		}
		var both sync.WaitGroup
		for _, name := range []string{first, second} {
			both.Go(func() {
				// An exec into a paused container may wait until somebody resumes it.
				resume := time.AfterFunc(2*time.Second, func() { _, _, _ = operations["unpause"]() })
				defer resume.Stop()
				status, body, err := operations[name]()
				switch {
				case err != nil:
					t.Errorf("%s: %s: %v", what, name, err)
				case status < 300, status == http.StatusNotModified, status == http.StatusConflict:
				case status == http.StatusNotFound && (strings.HasPrefix(first, "rm") || strings.HasPrefix(second, "rm")):
				default:
					t.Errorf("%s: %s: %d %s", what, name, status, body)
				}
			})
		}
		both.Wait()
		_, _, _ = operations["unpause"]()
		var said struct {
			ID    string
			State struct{ Running, Paused, Restarting bool }
		}
		gone, pids := false, []string{}
		agree := func() bool { // an end is recorded after the answer to kill
			status, body, err := shared.request("GET", container+"/json", "")
			if gone = status == http.StatusNotFound; gone {
				return true
			}
			if err == nil {
				err = json.Unmarshal([]byte(body), &said)
			}
			if err != nil || status != http.StatusOK {
				t.Fatalf("%s: inspect: %d %s %v", what, status, body, err)
			}
			pids = processes(said.ID)
			return !said.State.Paused && (state == "restarting" || said.State.Running == (len(pids) > 0))
		}
		agreed := agree()
		for range 1500 {
			if agreed {
				break
			}
			time.Sleep(20 * time.Millisecond)
			agreed = agree()
		}
		switch {
		case gone:
			return
		case !agreed:
			t.Errorf("%s: %+v, but the processes are %q", what, said.State, pids)
		}
		if status, body, err := operations["rm -f"](); status >= 300 || err != nil {
			t.Errorf("%s: rm -f at the end: %d %s %v", what, status, body, err)
		}
		if pids := processes(said.ID); len(pids) > 0 {
			t.Errorf("%s: removed, but the processes are %q", what, pids)
		}
	}
	for _, seed := range seeds(t, 150) {
		random := rand.New(rand.NewPCG(seed, 2))
		round(names[random.IntN(len(names))], names[random.IntN(len(names))], states[random.IntN(len(states))])
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
