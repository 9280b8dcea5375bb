package e2e

import (
	"net/url"
	"strings"
	"testing"
)

// badFilters are values of the parameter filters that no route takes.
var badFilters = []string{
	`{bad`, `[]`, `7`, `"x"`, `{"name":7}`, `{"name":"x"}`, `{"name":{"x":"y"}}`, `{"name":[7]}`, `{"no-such-filter":["x"]}`, `{"name":["a"]}{}`,
	strings.Repeat("[", 1000), `{"name":` + strings.Repeat("[", 1000),
}

// badQueries are about the containers queried, which runs, and second, which does not; EXEC is one that was not started.
var badQueries = []struct {
	request string
	status  int
	message string // a part of it
}{
	{"GET /containers/json?limit=x", 400, "limit"},
	{"GET /containers/json?limit=99999999999999999999", 400, "limit"},
	{`GET /containers/json?filters={"status":["lost"]}`, 400, "lost"},
	{`GET /containers/json?filters={"exited":["x"]}`, 400, "exited"},
	{`GET /containers/json?filters={"before":["nosuch"]}`, 404, "nosuch"},
	{`GET /containers/json?filters={"since":["nosuch"]}`, 404, "nosuch"},
	{`GET /containers/json?filters={"health":["x"]}`, 400, "health"},
	{`GET /containers/json?filters={"is-task":["x"]}`, 400, "is-task"},
	{`GET /containers/json?filters={"publish":["x"]}`, 400, "publish"},
	{`GET /containers/json?filters={"expose":["99999"]}`, 400, "expose"},
	{"POST /containers/create?name=a/b", 400, "a/b"},
	{"POST /containers/create?name=..", 400, ".."},
	{"POST /containers/create?name=ü", 400, "ü"},
	{"POST /containers/create?name=a", 400, "a"},
	{"POST /containers/create?name=x%00y", 400, ""},
	{"POST /containers/create?name=queried", 409, "already in use"},
	{"POST /containers/create?platform=a/b/c/d", 400, "platform"},
	{"POST /containers/create?platform=linux/s390x", 404, "No such image"},
	{"GET /containers/queried/logs", 400, "at least one"},
	{"GET /containers/queried/logs?stdout=1&since=xyz", 400, "xyz"},
	{"GET /containers/queried/logs?stdout=1&until=1.x", 400, "1.x"},
	{"GET /containers/queried/logs?stdout=1&since=99999999999999999999", 400, "since"},
	{"GET /containers/queried/stats?stream=1&one-shot=1", 400, "one-shot"},
	{"GET /containers/queried/top?ps_args=--no-such-flag", 400, "no-such-flag"},
	{"GET /containers/queried/top?ps_args=-o+xpid%3DPID", 400, "PID"},
	{"GET /containers/queried/top?ps_args=%00", 400, ""},
	{"GET /containers/second/top", 409, "not running"},
	{"POST /containers/queried/stop?t=abc", 400, "abc"},
	{"POST /containers/queried/stop?t=1.5", 400, "1.5"},
	{"POST /containers/queried/stop?signal=FOO", 400, "FOO"},
	{"POST /containers/queried/stop?t=99999999999999999999", 400, ""},
	{"POST /containers/queried/restart?t=abc", 400, "abc"},
	{"POST /containers/queried/restart?signal=FOO", 400, "FOO"},
	{"POST /containers/queried/kill?signal=FOO", 400, "FOO"},
	{"POST /containers/queried/kill?signal=-1", 400, "-1"},
	{"POST /containers/queried/kill?signal=65", 400, "65"},
	{"POST /containers/queried/kill?signal=0", 400, "0"},
	{"POST /containers/queried/kill?signal=%00", 400, ""},
	{"POST /containers/second/kill", 409, "not running"},
	{"POST /containers/second/pause", 409, "not running"},
	{"POST /containers/queried/unpause", 409, "not paused"},
	{"POST /containers/queried/rename", 400, ""},
	{"POST /containers/queried/rename?name=/", 400, ""},
	{"POST /containers/queried/rename?name=a/b", 400, "a/b"},
	{"POST /containers/queried/rename?name=..", 400, ".."},
	{"POST /containers/queried/rename?name=second", 409, "second"},
	{"POST /containers/queried/rename?name=queried", 400, "same name"},
	{"POST /containers/queried/resize", 400, ""},
	{"POST /containers/queried/resize?h=-1&w=80", 400, "-1"},
	{"POST /containers/queried/resize?h=24&w=99999999", 400, "99999999"},
	{"POST /containers/queried/resize?h=x&w=y", 400, ""},
	{"POST /containers/second/resize?h=24&w=80", 409, "not running"},
	{"POST /exec/EXEC/resize?h=-1&w=80", 400, "-1"},
	{"POST /exec/EXEC/resize?h=24&w=99999999", 400, "99999999"},
	{"POST /exec/EXEC/resize?h=24&w=80", 400, "not started"},
	{"POST /containers/queried/wait?condition=tomorrow", 400, "tomorrow"},
	{"POST /containers/queried/start?checkpoint=x", 501, "checkpoint"},
	{"DELETE /containers/queried", 409, "running"},
	{"DELETE /containers/queried?link=1", 400, "link"},
	{"POST /containers/queried/attach?detachKeys=ctrl-%01", 400, "detach"},
	{"GET /events?since=xyz", 400, "xyz"},
	{"GET /events?until=xyz", 400, "xyz"},
	{"GET /events?since=9&until=3", 400, "since"},
	{"POST /images/create", 400, "fromImage"},
	{"POST /images/create?fromImage=UPPER&tag=1", 400, "UPPER"},
	{"POST /images/create?fromImage=a/../b&tag=1", 400, "a/../b"},
	{"POST /images/create?fromImage=a%00b&tag=1", 400, ""},
	{"POST /images/create?fromImage=a&tag=" + strings.Repeat("t", 129), 400, ""},
	{"POST /images/create?fromImage=a&tag=sha256:abc", 400, "sha256:abc"},
	{"POST /images/create?fromImage=a&tag=1&platform=a/b/c/d", 400, "platform"},
	{"POST /images/create?fromSrc=-", 501, "import"},
	{"GET /images/toolbox/json?platform={bad", 400, "platform"},
	{"POST /images/toolbox/tag", 400, "repo"},
	{"POST /images/toolbox/tag?repo=UPPER", 400, "UPPER"},
	{"POST /images/toolbox/tag?repo=a&tag=a/b", 400, "a/b"},
	{"POST /images/toolbox/tag?repo=a@sha256:" + strings.Repeat("0", 64), 400, ""},
	{"POST /images/nosuch/tag?repo=a", 404, "nosuch"},
	{"DELETE /images/toolbox", 409, "container"},
	{`GET /images/json?filters={"before":["nosuch"]}`, 404, "nosuch"},
	{`GET /images/json?filters={"until":["yesterday"]}`, 400, "yesterday"},
	{`GET /images/json?filters={"dangling":["x"]}`, 400, "dangling"},
	{`GET /volumes?filters={"dangling":["x"]}`, 400, "dangling"},
	{`GET /networks?filters={"dangling":["x"]}`, 400, "dangling"},
	{`GET /networks?filters={"type":["x"]}`, 400, "type"},
	{`POST /containers/prune?filters={"until":["yesterday"]}`, 400, "yesterday"},
	{`POST /images/prune?filters={"until":["yesterday"]}`, 400, "yesterday"},
	{`POST /images/prune?filters={"dangling":["x"]}`, 400, "dangling"},
	{`POST /volumes/prune?filters={"all":["x"]}`, 400, "all"},
	{"GET /v0.1/containers/json", 400, "too old"},
	{"GET /v99.9/containers/json", 400, "too new"},
	{"GET /v1.44.5/containers/json", 400, "1.44.5"},
	{"GET /v1./containers/json", 400, "1."},
	{"GET /v../containers/json", 400, ".."},
	{"GET /vx/containers/json", 404, "page not found"},
}

// TestBadQueries sends parameters that cannot be to routes that read them, about a container that is there and runs.
func TestBadQueries(t *testing.T) {
	must(t, command("gantry", shared, "run", "-d", "--name", "queried", "toolbox", "sleep", "1000"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-f", "queried")) })
	must(t, command("gantry", shared, "create", "--name", "second", "toolbox", "true"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-f", "second")) })
	exec := execOf(t, "queried")
	unchanged(t, shared)
	for _, q := range badQueries {
		method, target, _ := strings.Cut(strings.ReplaceAll(q.request, "EXEC", exec), " ")
		a, err := shared.send(method, quoted(target), "application/json", []byte(`{"Image":"toolbox"}`)[:bodyFor(target)])
		refusal(t, q.request, a, err, q.status)
		if !strings.Contains(a.message, q.message) {
			t.Errorf("%s: %q does not tell of %q", q.request, a.message, q.message)
		}
	}
	for _, route := range []string{
		"GET /containers/json", "POST /containers/prune", "GET /events", "GET /images/json", "POST /images/prune", "GET /volumes", "POST /volumes/prune",
		"GET /networks", "POST /networks/prune", "POST /build/prune",
	} {
		method, path, _ := strings.Cut(route, " ")
		for _, f := range badFilters {
			a, err := shared.send(method, path+"?filters="+url.QueryEscape(f), "", nil)
			refusal(t, route+" with filters="+short(f), a, err, 400)
		}
	}
	for _, route := range allRoutes(t) {
		method, path, _ := strings.Cut(route, " ")
		for _, query := range []string{"?a=%zz", "?%", "?a;b=c"} {
			a, err := shared.send(method, fill(path, "nosuch")+query, "application/json", []byte("{}"))
			refusal(t, route+query, a, err, 400)
		}
	}
	alive(t, shared)
}

// bodyFor is how much of a good body a request needs: only create reads one.
func bodyFor(target string) int {
	if strings.HasPrefix(target, "/containers/create") {
		return len(`{"Image":"toolbox"}`)
	}
	return 0
}

// quoted escapes what may not stand in a query, but for what is escaped already.
func quoted(target string) string {
	return strings.NewReplacer(`"`, "%22", "{", "%7b", "}", "%7d", "[", "%5b", "]", "%5d", " ", "%20", "ü", "%c3%bc").Replace(target)
}

// execOf prepares a process in a container and returns its id.
func execOf(t *testing.T, container string) string {
	t.Helper()
	a, err := shared.send("POST", "/containers/"+container+"/exec", "application/json", []byte(`{"Cmd":["true"]}`))
	if err != nil || a.status != 201 {
		t.Fatalf("exec: %v: %d %s", err, a.status, a.message)
	}
	return strings.Trim(strings.TrimPrefix(strings.TrimSpace(string(a.body)), `{"Id":`), `"}`)
}
