package e2e

import (
	"strings"
	"testing"
)

func TestLink(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("run", "-d", "--name", "store", "--expose", "5432", "-e", "SECRET=x y", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", "store")
		address := must(t, do("inspect", "-f", "{{(index .NetworkSettings.Networks \"bridge\").IPAddress}}", "store"))
		must(t, do("run", "-d", "--name", "user", "--link", "store:my-db", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", "user")
		env := must(t, do("exec", "user", "env"))
		for _, want := range []string{"MY_DB_NAME=/user/my-db", "MY_DB_PORT=tcp://" + address + ":5432", "MY_DB_PORT_5432_TCP_ADDR=" + address, "MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_ENV_SECRET=x y"} {
			if !strings.Contains(env+"\n", want+"\n") {
				t.Errorf("no %s in\n%s", want, env)
			}
		}
		hosts := func() string { return must(t, do("exec", "user", "cat", "/etc/hosts")) }
		names := "\tmy-db " + must(t, do("inspect", "-f", "{{.Config.Hostname}}", "store")) + " store\n"
		if !strings.Contains(hosts(), address+names) {
			t.Errorf("no %q in %s", address+names, hosts())
		}
		if got := must(t, do("inspect", "-f", "{{.HostConfig.Links}}", "user")); got != "[/store:/user/my-db]" {
			t.Errorf("inspect: %s", got)
		}
		// It has another address after its next start, since somebody takes this one: the hosts file follows.
		must(t, do("stop", "-t", "0", "store"))
		if r := do("run", "--rm", "--link", "store", "toolbox", "true"); r.code != 125 || !strings.Contains(r.err, "Cannot link to a non running container: /store AS store") {
			t.Errorf("to a stopped one: exit %d: %s", r.code, r.err)
		}
		must(t, do("run", "-d", "--name", "taker", "--ip", address, "toolbox", "sleep", "1000"))
		defer do("rm", "-f", "taker")
		must(t, do("start", "store"))
		now := must(t, do("inspect", "-f", "{{(index .NetworkSettings.Networks \"bridge\").IPAddress}}", "store"))
		if now == address || !strings.Contains(hosts(), now+names) || strings.Contains(hosts(), address+"\t") {
			t.Errorf("at %s, then %s: %s", address, now, hosts())
		}
		for text, want := range map[string]string{"nobody": "nobody", "store:a b": "bad format"} {
			if r := do("create", "--link", text, "toolbox"); r.code == 0 || !strings.Contains(r.err, want) {
				t.Errorf("%s: exit %d: %s", text, r.code, r.err)
			}
		}
		if r := do("create", "--link", "store", "--network", "host", "toolbox"); r.code == 0 {
			t.Error("a link without the bridge")
		}
	})
}
