package differential

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// scenario is a list of steps that both engines take. The files in scenarios/ have many of them:
//
//	= stop ends a running container with 143          begins a scenario; "(alone)" at the end: beside no other one
//	# a comment
//	run c {"Cmd": ["sleep", "1000"]}                  a step; a line that begins with a space continues the one before
//	POST /containers/$c/stop?t=0
//	GET /containers/$c/json -> State.Status, Name     only these of the body are compared
//
// Steps:
//
//	METHOD /path?query BODY     a request; the query need not be encoded. HEADER=VALUE in brackets before the body: [Content-Type=text/plain] {}
//	create NAME BODY            POST /containers/create?name=NAME, with Image "box" and no network unless BODY says so
//	run NAME BODY               create and start
//	exec NAME BODY              creates a command in a container and starts it with both outputs attached
//	ATTACH /path BODY           POST that takes over the connection; output is read to its end
//	tar /path?query FILE=TEXT … PUT of an archive; a name that ends in "/" is a directory, NAME->TARGET a link
//	until /path PATH=VALUE      repeats GET until the answer's body has this value; not compared
//	logged NAME TEXT            until the log of a container has a text
//	exited NAME                 until a container has ended
//
// Before a step, "x =" keeps the Id of the answer as $x, and "&" goes on to the next step once the answer's header is there: its
// body is compared at the end of the scenario. After it, << "TEXT" is input for ATTACH, exec and plain bodies, and -> lists what
// of the body is compared: "A.B", "[].Name" of every element, "-" for nothing, "tar" for an archive.
//
// $name is a name of the scenario's own, ${x:12} the first characters of what a step kept. Events about what the scenario named
// or created are compared, too, in their order.
type scenario struct {
	file, name string
	alone      bool
	steps      []step
}

type step struct {
	text       string // as written
	label      string // what the list of differences calls it: the verb and the path without its query
	verb       string
	target     string
	header     [2]string
	body       string
	input      string
	show       []string
	keep       string
	background bool
}

// readScenarios reads the files, in their names' order.
func readScenarios(dir string) ([]scenario, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	var all []scenario
	names := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		short := strings.TrimSuffix(filepath.Base(file), ".txt")
		for number, line := range joinLines(string(text)) {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if name, found := strings.CutPrefix(line, "= "); found {
				name, alone := strings.CutSuffix(name, " (alone)")
				if names[short+"/"+name] {
					return nil, fmt.Errorf("%s:%d: there are two scenarios %q", file, number+1, name)
				}
				names[short+"/"+name] = true
				all = append(all, scenario{file: short, name: name, alone: alone})
				continue
			}
			if len(all) == 0 || all[len(all)-1].file != short {
				return nil, fmt.Errorf("%s:%d: a step before the first scenario", file, number+1)
			}
			s, err := parseStep(line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, number+1, err)
			}
			last := &all[len(all)-1]
			last.steps = append(last.steps, s)
		}
	}
	return all, nil
}

// joinLines appends lines that begin with a space to the ones before, and leaves empty ones in their place.
func joinLines(text string) []string {
	lines := strings.Split(text, "\n")
	last := 0
	for i, line := range lines {
		if strings.HasPrefix(line, " ") && i > 0 {
			lines[last] += " " + strings.TrimSpace(line)
			lines[i] = ""
			continue
		}
		last = i
		lines[i] = strings.TrimRight(line, " ")
	}
	return lines
}

var verbs = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "create", "run", "exec", "ATTACH", "tar", "until", "logged", "exited"}

var keeping = regexp.MustCompile(`^([a-z0-9]+) = `)

func parseStep(line string) (step, error) {
	s := step{text: line}
	line, s.background = strings.CutPrefix(line, "& ")
	if m := keeping.FindStringSubmatch(line); m != nil {
		s.keep, line = m[1], line[len(m[0]):]
	}
	if before, after, found := strings.Cut(line, " -> "); found {
		line = before
		for _, path := range strings.Split(after, ",") {
			s.show = append(s.show, strings.TrimSpace(path))
		}
	}
	if before, after, found := strings.Cut(line, " << "); found {
		line = before
		if err := json.Unmarshal([]byte(after), &s.input); err != nil {
			return s, fmt.Errorf("input %s: %w", after, err)
		}
	}
	var rest string
	s.verb, rest, _ = strings.Cut(line, " ")
	if !slices.Contains(verbs, s.verb) {
		return s, fmt.Errorf("unknown step %q", s.verb)
	}
	s.target, s.body = rest, ""
	// The query may have spaces in values, but a body begins after one.
	for i := range rest {
		if rest[i] == ' ' && (s.verb == "tar" || s.verb == "until" || s.verb == "logged" || strings.ContainsRune("{[\"n<", rune(rest[min(i+1, len(rest)-1)])) && !openBrackets(rest[:i])) {
			s.target, s.body = rest[:i], rest[i+1:]
			break
		}
	}
	if after, found := strings.CutPrefix(s.body, "["); found && !strings.HasPrefix(after, "]") {
		if header, body, found := strings.Cut(after, "]"); found && strings.Contains(header, "=") {
			name, value, _ := strings.Cut(header, "=")
			s.header, s.body = [2]string{name, value}, strings.TrimSpace(body)
		}
	}
	if s.target == "" {
		return s, errors.New("the step has no object")
	}
	path, _, _ := strings.Cut(s.target, "?")
	s.label = s.verb + " " + path
	return s, nil
}

// openBrackets reports whether a text has brackets that are not closed yet.
func openBrackets(text string) bool {
	return strings.Count(text, "{")+strings.Count(text, "[") > strings.Count(text, "}")+strings.Count(text, "]")
}
