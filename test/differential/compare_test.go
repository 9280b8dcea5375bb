package differential

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// difference is an entry of the reviewed list (differences_test.go). Scenario, step and field are patterns in which "*" is any
// text. An entry that matches nothing is an error, so the list has what is true and no more.
type difference struct {
	scenario string // "create/*"; the file and the name
	step     string // "GET /containers/*/json": the verb and path as written, or "event"
	field    string // "body.HostConfig.CpuCount", "status", "outcome" where one refuses; of an event "docker: …" or "gantry: …"
	docker   string // what dockerd says, a pattern; "" is anything
	gantry   string // what Gantry says, a pattern; "" is anything
	reason   string
}

// found is a difference that a scenario showed.
type found struct{ scenario, step, field, docker, gantry string }

func (f found) String() string {
	if f.step == "event" {
		return "event " + f.field
	}
	return fmt.Sprintf("%s %s\n\t\tdocker: %s\n\t\tgantry: %s", f.step, f.field, f.docker, f.gantry)
}

func (d difference) matches(f found) bool {
	return matches(d.scenario, f.scenario) && matches(d.step, f.step) && matches(d.field, f.field) &&
		(d.docker == "" || matches(d.docker, f.docker)) && (d.gantry == "" || matches(d.gantry, f.gantry))
}

var patterns sync.Map // pattern → *regexp.Regexp

func matches(pattern, text string) bool {
	compiled, found := patterns.Load(pattern)
	if !found {
		compiled, _ = patterns.LoadOrStore(pattern, regexp.MustCompile("^"+strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")+"$"))
	}
	return compiled.(*regexp.Regexp).MatchString(text)
}

// compare finds where two records of a scenario differ.
func compare(scenario string, docker, gantry []record) (all []found) {
	split := func(records []record) (steps []record, events []string) {
		for _, r := range records {
			if r.label == "event" {
				events = append(events, r.value.(string))
			} else {
				steps = append(steps, r)
			}
		}
		return steps, events
	}
	steps, events := split(docker)
	ourSteps, ourEvents := split(gantry)
	gone := map[string]bool{} // containers that one engine refused to make: what follows for them is not compared
	for i := range max(len(steps), len(ourSteps)) {
		if i < len(steps) && slices.ContainsFunc(containersOf(steps[i].label), func(name string) bool { return gone[name] }) {
			continue
		}
		if i >= len(steps) || i >= len(ourSteps) {
			all = append(all, found{scenario, "steps", "count", fmt.Sprint(len(steps)), fmt.Sprint(len(ourSteps))})
			break
		}
		if outcome, ours := refusal(steps[i].value), refusal(ourSteps[i].value); (outcome == "") != (ours == "") {
			all = append(all, found{scenario, steps[i].label, "outcome", cmp.Or(outcome, "(no error)"), cmp.Or(ours, "(no error)")})
			if verb, name, _ := strings.Cut(steps[i].label, " "); verb == "create" || verb == "run" {
				gone[name] = true
			}
			continue
		}
		differ("", steps[i].value, ourSteps[i].value, func(path, docker, gantry string) {
			all = append(all, found{scenario, steps[i].label, path, docker, gantry})
		})
	}
	for _, line := range diffLines(events, ourEvents) {
		if gone[about(line)] {
			continue
		}
		all = append(all, found{scenario: scenario, step: "event", field: line})
	}
	return all
}

// containersOf are the names of containers in a step's label: "create c", "GET /containers/$c/json".
func containersOf(label string) []string {
	verb, object, _ := strings.Cut(label, " ")
	if verb == "create" || verb == "run" || verb == "start" {
		return []string{object}
	}
	_, after, found := strings.Cut(object, "/containers/$")
	name, _, _ := strings.Cut(after, "/")
	if !found {
		return nil
	}
	return []string{name}
}

// refusal is the status and message of an answer that is an error, or "".
func refusal(value any) string {
	answer, _ := value.(map[string]any)
	status := fmt.Sprint(answer["status"])
	if status < "400" {
		return ""
	}
	body, _ := answer["body"].(map[string]any)
	return strings.TrimSpace(fmt.Sprint(status, " ", cmp.Or[any](body["message"], compact(answer["body"]))))
}

// differ calls each for every place where two values differ.
func differ(path string, a, b any, each func(path, a, b string)) {
	join := func(key string) string {
		if path == "" {
			return key
		}
		return path + "." + key
	}
	switch a := a.(type) {
	case map[string]any:
		if b, same := b.(map[string]any); same {
			keys := maps.Clone(a)
			maps.Copy(keys, b)
			for _, k := range slices.Sorted(maps.Keys(keys)) {
				av, inA := a[k]
				bv, inB := b[k]
				switch {
				case !inA:
					each(join(k), "(missing)", compact(bv))
				case !inB:
					each(join(k), compact(av), "(missing)")
				default:
					differ(join(k), av, bv, each)
				}
			}
			return
		}
	case []any:
		if b, same := b.([]any); same && len(a) == len(b) {
			for i := range a {
				differ(join(fmt.Sprint(i)), a[i], b[i], each)
			}
			return
		}
	}
	if x, y := compact(a), compact(b); x != y {
		each(path, x, y)
	}
}

// diffLines lists lines that only one side has, by the longest common sequence.
func diffLines(a, b []string) (lines []string) {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "docker: "+a[i])
			i++
		default:
			lines = append(lines, "gantry: "+b[j])
			j++
		}
	}
	return lines
}

// most scenarios wait more than they work.
const atATime = "6"

// TestScenarios runs every scenario against dockerd and gantryd. With -v it prints the differences that the list has, too.
func TestScenarios(t *testing.T) {
	all, err := readScenarios("scenarios")
	if err != nil {
		t.Fatal(err)
	}
	if err := flag.Set("test.parallel", atATime); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	used, ran := map[int]bool{}, 0
	check := func(t *testing.T, number int, s scenario) {
		name := s.file + "/" + s.name
		var records [2][]record
		var errs [2]error
		var group sync.WaitGroup
		for i, e := range both {
			group.Go(func() { records[i], errs[i] = e.take(s, fmt.Sprintf("t%d-", number)) })
		}
		group.Wait()
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		ran++
		if t.Failed() {
			return
		}
		for _, f := range compare(name, records[0], records[1]) {
			known := false
			for i, d := range differences {
				if d.matches(f) {
					used[i], known = true, true
				}
			}
			if !known {
				t.Errorf("%s", f)
			}
		}
	}
	for _, alone := range []bool{true, false} {
		t.Run(map[bool]string{true: "alone", false: "together"}[alone], func(t *testing.T) {
			for i, s := range all {
				if s.alone != alone {
					continue
				}
				t.Run(s.file+"/"+s.name, func(t *testing.T) {
					if !alone {
						t.Parallel()
					}
					check(t, i, s)
				})
			}
		})
	}
	if ran < len(all) || t.Failed() {
		return // only some were asked for, or told nothing
	}
	for i, d := range differences {
		if !used[i] {
			t.Errorf("no longer differs, remove it from the list: %s %s %s", d.scenario, d.step, d.field)
		}
	}
}
