package cli

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRunSequence(t *testing.T) {
	for _, test := range []struct {
		name, condition string
		args            []string
		code            int
	}{
		{"kept", "next-exit", []string{"run", "img", "cmd"}, 0},
		{"removed", "removed", []string{"run", "--rm", "img", "cmd"}, 7},
		{"killed", "removed", []string{"run", "--rm", "img", "cmd"}, 137},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newEngineStub(t)
			s.exitCode = test.code
			s.output = func(conn net.Conn) {
				<-s.started
				_, _ = conn.Write(append(frame(1, "out\n"), frame(2, "err\n")...))
			}
			got := s.gantry("", test.args...)
			got.want(t, test.code, "out\n")
			if got.errOut != "err\n" {
				t.Errorf("stderr %q, want the container's alone", got.errOut)
			}
			create, attach := s.index("POST /containers/create"), s.index("POST /containers/c1/attach?stderr=1&stdout=1&stream=1")
			wait, start := s.index("POST /containers/c1/wait?condition="+test.condition), s.index("POST /containers/c1/start")
			if create != 0 || attach < 1 || wait < 1 || start != 3 || len(s.seen()) != 4 {
				t.Errorf("requests %q: want create, then attach and wait, then start, nothing else", s.seen())
			}
		})
	}
}

func TestRunSendsItsInput(t *testing.T) {
	s := newEngineStub(t)
	s.output = func(conn net.Conn) {
		<-s.started
		text, _ := io.ReadAll(conn) // ends when the client closes its half
		_, _ = conn.Write(frame(1, strings.ToUpper(string(text))))
	}
	s.gantry("hello", "run", "-i", "img").want(t, 0, "HELLO")
}

func TestRunDetached(t *testing.T) {
	s := newEngineStub(t)
	s.gantry("", "run", "-d", "img").want(t, 0, "c1\n")
	if len(s.seen()) != 2 {
		t.Errorf("requests %q: want create and start", s.seen())
	}
	var config struct{ AttachStdout, AttachStderr, AttachStdin bool }
	if err := json.Unmarshal(s.body("/containers/create"), &config); err != nil || config.AttachStdout || config.AttachStderr {
		t.Errorf("a detached container attaches streams: %+v, %v", config, err)
	}
}

func TestRunPullsAMissingImage(t *testing.T) {
	missing := func(s *engineStub) {
		asked := 0
		s.on("POST /containers/create", func(w http.ResponseWriter, _ *http.Request) {
			if asked++; asked == 1 {
				refuse(http.StatusNotFound, "No such image: img:latest")(w, nil)
				return
			}
			reply(w, http.StatusCreated, map[string]string{"Id": "c1"})
		})
	}
	t.Run("missing", func(t *testing.T) {
		s := newEngineStub(t)
		missing(s)
		s.gantry("", "run", "-d", "img").want(t, 0, "c1\n", "Unable to find image 'img:latest' locally\n", "layer: Pull complete\n")
		if i := s.index("POST /images/create?fromImage=docker.io%2Flibrary%2Fimg&tag=latest"); i != 1 {
			t.Errorf("requests %q: want the pull second", s.seen())
		}
	})
	t.Run("never", func(t *testing.T) {
		s := newEngineStub(t)
		missing(s)
		s.gantry("", "run", "--pull", "never", "img").want(t, 125, "", "gantry: Error response from daemon: No such image: img:latest\n")
	})
	t.Run("always", func(t *testing.T) {
		s := newEngineStub(t)
		s.gantry("", "run", "-dq", "--pull", "always", "--platform", "linux/aarch64", "img").want(t, 0, "c1\n")
		if s.index("POST /images/create?fromImage=docker.io%2Flibrary%2Fimg&platform=linux%2Farm64&tag=latest") != 0 {
			t.Errorf("requests %q: want the pull first", s.seen())
		}
	})
	t.Run("failing", func(t *testing.T) {
		s := newEngineStub(t)
		missing(s)
		s.on("POST /images/create", func(w http.ResponseWriter, _ *http.Request) {
			reply(w, http.StatusOK, map[string]any{"errorDetail": map[string]string{"message": "manifest unknown"}})
		})
		s.gantry("", "run", "img").want(t, 125, "", "manifest unknown")
	})
}

func TestRunStartFailures(t *testing.T) {
	for _, test := range []struct {
		message string
		code    int
	}{
		{`exec: "nope": executable file not found in $PATH`, 127},
		{`exec: "/nope": stat /nope: no such file or directory`, 127},
		{`exec: "/etc": permission denied`, 126},
		{`execve /x: exec format error`, 126},
		{`bind source path does not exist: /x: no such file or directory`, 125},
		{`driver failed programming external connectivity: port is already allocated`, 125},
	} {
		s := newEngineStub(t)
		s.on("POST /containers/c1/start", refuse(http.StatusBadRequest, test.message))
		s.on("DELETE /containers/c1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		s.gantry("", "run", "--rm", "img").want(t, test.code, "", "gantry: Error response from daemon: "+test.message, "Run 'gantry run --help'")
		if s.index("DELETE /containers/c1?force=1&v=1") < 0 {
			t.Errorf("%s: requests %q: the --rm container was left behind", test.message, s.seen())
		}
	}
}

func TestRunRefusals(t *testing.T) {
	s := newEngineStub(t)
	used := filepath.Join(t.TempDir(), "cid")
	if err := os.WriteFile(used, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"run"}, 1, "requires at least 1 argument"},
		{[]string{"run", "--nope", "img"}, 125, "unknown flag: --nope"},
		{[]string{"run", "-d", "-a", "stdout", "img"}, 125, "cannot specify both --attach and --detach"},
		{[]string{"run", "--rm", "--restart", "always", "img"}, 125, "cannot specify both --restart and --rm"},
		{[]string{"run", "--gpus", "all", "img"}, 125, "--gpus is not supported"},
		{[]string{"run", "--pull", "sometimes", "img"}, 125, "invalid pull option"},
		{[]string{"run", "-it", "img"}, 1, "stdin is not a terminal"},
		{[]string{"run", "--cidfile", used, "img"}, 125, "container ID file found"},
		{[]string{"frobnicate"}, 1, "unknown command: gantry frobnicate"},
		{[]string{"imges"}, 1, "did you mean: images, image?"},
		{[]string{"volume", "frobnicate"}, 1, "unknown command: gantry volume frobnicate"},
	} {
		s.gantry("", test.args...).want(t, test.code, "", test.text)
	}
	if len(s.seen()) != 0 {
		t.Errorf("the engine was asked %q", s.seen())
	}
}

func TestNoEngine(t *testing.T) {
	s := &engineStub{t: t, socket: filepath.Join(t.TempDir(), "nobody")}
	const text = "cannot connect to the engine at unix://"
	s.gantry("", "run", "img").want(t, 125, "", text)
	s.gantry("", "ps").want(t, 1, "", text)
}

func TestRunWritesTheIDFile(t *testing.T) {
	s := newEngineStub(t)
	path := filepath.Join(t.TempDir(), "cid")
	s.gantry("", "run", "-d", "--cidfile", path, "img").want(t, 0, "c1\n")
	if id, err := os.ReadFile(path); err != nil || string(id) != "c1" {
		t.Errorf("cidfile %q, %v", id, err)
	}
	s.on("POST /containers/create", refuse(http.StatusConflict, "name taken"))
	failed := filepath.Join(t.TempDir(), "cid")
	s.gantry("", "run", "-d", "--cidfile", failed, "img").want(t, 125, "", "name taken")
	if _, err := os.Stat(failed); !os.IsNotExist(err) {
		t.Errorf("a failed create left its cidfile: %v", err)
	}
}

func TestOlderServer(t *testing.T) {
	s := newEngineStub(t)
	old := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1.45/") {
			reply(w, http.StatusCreated, map[string]string{"Id": "c1"})
			return
		}
		refuse(http.StatusBadRequest, "client version 1.56 is too new. Maximum supported API version is 1.45")(w, r)
	}
	s.on("POST /containers/create", old)
	s.on("HEAD /_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.45") })
	s.gantry("", "create", "img").want(t, 0, "c1\n")
	if want := 3; len(s.seen()) != want {
		t.Errorf("requests %q: want the refused one, the question and the second try", s.seen())
	}
}

// A command that is run again must not have printed or asked anything before.
func TestOlderServerSeesNothingTwice(t *testing.T) {
	for _, test := range []struct {
		args  []string
		route string
		out   string
	}{
		{[]string{"inspect", "c1"}, "GET /containers/c1/json", "[\n    {\n        \"Id\": \"c1\"\n    }\n]\n"},
		{[]string{"stats", "--no-stream", "--format", "{{.Container}}", "c1"}, "GET /containers/c1/stats", "c1\n"},
		{[]string{"container", "prune"}, "POST /containers/prune", "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] Total reclaimed space: 0B\n"},
		{[]string{"pull", "img"}, "POST /images/create", "Using default tag: latest\ndocker.io/library/img:latest\n"},
		{[]string{"load"}, "POST /images/load", ""},
	} {
		s := newEngineStub(t)
		s.on(test.route, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v1.45/") {
				reply(w, http.StatusOK, map[string]string{"Id": "c1"})
				return
			}
			refuse(http.StatusBadRequest, "client version 1.56 is too new. Maximum supported API version is 1.45")(w, r)
		})
		s.on("HEAD /_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.45") })
		s.gantry("y\n", test.args...).want(t, 0, test.out)
	}
}

func TestPlan(t *testing.T) {
	s := newEngineStub(t)
	s.gantry("", "run", "--plan", "img").want(t, 125, "", "this engine cannot print plans")
	s.on("POST /gantry/plan", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "1. clone3\n") })
	s.gantry("", "run", "--plan", "-m", "64m", "img", "x").want(t, 0, "1. clone3\n")
	var request struct {
		Image      string
		HostConfig struct{ Memory int64 }
	}
	if err := json.Unmarshal(s.body("/gantry/plan"), &request); err != nil || request.Image != "img" || request.HostConfig.Memory != 64<<20 {
		t.Errorf("the plan was asked for %+v, %v", request, err)
	}
}

func TestExec(t *testing.T) {
	s := newEngineStub(t)
	s.exitCode = 9
	s.output = func(conn net.Conn) { _, _ = conn.Write(frame(1, "hi")) }
	s.gantry("", "exec", "-e", "A=b", "-w", "/w", "-u", "1:2", "c1", "ls", "-l").want(t, 9, "hi")
	var sent struct {
		Cmd, Env         []string
		WorkingDir, User string
		AttachStdin      bool
	}
	if err := json.Unmarshal(s.body("/containers/c1/exec"), &sent); err != nil {
		t.Fatal(err)
	}
	if strings.Join(sent.Cmd, " ") != "ls -l" || sent.Env[0] != "A=b" || sent.WorkingDir != "/w" || sent.User != "1:2" || sent.AttachStdin {
		t.Errorf("sent %+v", sent)
	}
	s.on("POST /exec/e1/start", refuse(http.StatusBadRequest, `"nope": executable file not found in $PATH`))
	s.gantry("", "exec", "c1", "nope").want(t, 127, "", "executable file not found")
}

func TestEachKeepsOrderAndGoesOn(t *testing.T) {
	s := newEngineStub(t)
	for _, name := range []string{"a", "c"} {
		s.on("DELETE /containers/"+name, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	}
	s.on("DELETE /containers/b", refuse(http.StatusConflict, "b is running"))
	s.gantry("", "rm", "a", "b", "c").want(t, 1, "a\nc\n", "gantry: Error response from daemon: b is running\n")
}

func TestRunProxiesSignals(t *testing.T) {
	s := newEngineStub(t)
	killed := make(chan struct{})
	s.on("POST /containers/c1/kill", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		close(killed)
	})
	s.output = func(net.Conn) {
		<-s.started // by now the signals are received, else this one ends the test
		if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
			t.Error(err)
			return
		}
		<-killed
	}
	s.gantry("", "run", "img").want(t, 0, "")
	if want := "POST /containers/c1/kill?signal=10"; s.index(want) < 0 {
		t.Errorf("requests %q lack %s", s.seen(), want)
	}
}
