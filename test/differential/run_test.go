package differential

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// patience bounds each step; streamPatience bounds streams that a scenario left open.
const (
	patience       = 2 * time.Minute
	streamPatience = 3 * time.Second
)

// record is what one step got, in a form that compares.
type record struct {
	label string
	text  string
	value any // JSON: status, header, body
}

// play is one scenario on one engine.
type play struct {
	engine     *engine
	prefix     string            // of all names that the scenario makes up
	kept       map[string]string // variables
	ids        map[string]string // id → what it stands for
	containers []string
	records    []record
	waiting    []func() // collect the answers of background steps
}

// take runs the scenario.
func (e *engine) take(s scenario, prefix string) (records []record, err error) {
	p := &play{engine: e, prefix: prefix, kept: map[string]string{}, ids: map[string]string{}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	e.mu.Lock()
	first := len(e.events)
	e.mu.Unlock()
	defer func() {
		for _, id := range p.containers {
			if _, cleanErr := p.send(ctx, "DELETE", "/containers/"+id+"?force=1&v=1", nil); cleanErr != nil {
				err = errors.Join(err, cleanErr)
			}
		}
	}()
	for _, step := range s.steps {
		if err := p.step(ctx, step); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", e.name, step.text, err)
		}
	}
	for _, collect := range p.waiting {
		collect()
	}
	if err := p.settle(ctx, first); err != nil {
		return nil, err
	}
	// What the engine does on its own after an answer, it has done when a later event is there.
	marker := prefix + "marker"
	if _, err := p.send(ctx, "POST", "/volumes/create", json.RawMessage(`{"Name":"`+marker+`"}`)); err != nil {
		return nil, err
	}
	events, err := e.eventsUntil(ctx, marker)
	if err != nil {
		return nil, err
	}
	var lines []string
	seen := map[string]bool{} // of health checks, which repeat
	for _, event := range events[first:] {
		if text := string(event); strings.Contains(text, prefix) || slices.ContainsFunc(slices.Collect(maps.Keys(p.ids)), func(id string) bool { return strings.Contains(text, id) }) {
			line := p.event(event)
			if strings.HasPrefix(line, "container exec_") && strings.Contains(line, "execID=<hex>") && seen[line] {
				continue
			}
			seen[line] = true
			lines = append(lines, line)
		}
	}
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(about(a), about(b)) })
	for _, line := range sortRuns(lines) {
		p.records = append(p.records, record{label: "event", value: line})
	}
	return p.records, nil
}

// settle waits for what follows an end that the scenario has seen: a rename waits for the engine's work on the container; a
// container that was removed and an exec that has ended have an event of that.
func (p *play) settle(ctx context.Context, first int) error {
	for _, id := range p.containers {
		text, err := p.send(ctx, "GET", "/containers/"+id+"/json", nil)
		if err != nil {
			return err
		}
		if name, found := lookup(parseJSON(text), []string{"Name"}).(string); found && strings.HasPrefix(name, "/") {
			if _, err := p.send(ctx, "POST", "/containers/"+id+"/rename?name="+name[1:], nil); err != nil { // it has this name: refused
				return err
			}
			continue
		}
		short, cancel := context.WithTimeout(ctx, streamPatience)
		err = p.engine.awaitEvent(short, first, func(event string) bool { return strings.Contains(event, `"destroy"`) && strings.Contains(event, id) })
		cancel()
		if err != nil {
			return fmt.Errorf("the removal of container %s: %w", id, err)
		}
	}
	for id := range p.ids {
		if slices.Contains(p.containers, id) {
			continue
		}
		text, err := p.send(ctx, "GET", "/exec/"+id+"/json", nil)
		if err != nil {
			return err
		}
		state := parseJSON(text)
		if fmt.Sprint(lookup(state, []string{"Running"})) != "false" || fmt.Sprint(lookup(state, []string{"Pid"})) == "0" {
			continue // it runs, or never did
		}
		short, cancel := context.WithTimeout(ctx, streamPatience)
		err = p.engine.awaitEvent(short, first, func(event string) bool { return strings.Contains(event, "exec_die") && strings.Contains(event, id) })
		cancel()
		if err != nil {
			return fmt.Errorf("the end of exec %s: %w", id, err)
		}
	}
	return nil
}

var (
	execOf      = regexp.MustCompile(`execID=<(\w+)>`)
	containerOf = regexp.MustCompile(`<([a-z]\w*)>`)
)

// about tells which exec or container an event is about: those of different ones may come in any order.
func about(line string) string {
	if m := execOf.FindStringSubmatch(line); m != nil {
		return m[1]
	}
	for _, m := range containerOf.FindAllStringSubmatch(line, -1) {
		if m[1] != "hex" && m[1] != "time" {
			return m[1]
		}
	}
	return ""
}

// sortRuns sorts events of the same type and action that follow each other: dockerd mounts volumes in no order.
func sortRuns(lines []string) []string {
	kind := func(line string) string {
		words := strings.SplitN(line, " ", 3)
		return words[0] + " " + words[1]
	}
	for i := 0; i < len(lines); {
		end := i + 1
		for end < len(lines) && kind(lines[end]) == kind(lines[i]) {
			end++
		}
		slices.Sort(lines[i:end])
		i = end
	}
	return lines
}

// event is an event as one line: type, action, whom it is about, attributes.
func (p *play) event(raw json.RawMessage) string {
	var e struct {
		Type, Action string
		Actor        struct {
			ID         string
			Attributes map[string]string
		}
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return err.Error()
	}
	words := []string{e.Type, e.Action, p.normalText(e.Actor.ID)}
	delete(e.Actor.Attributes, "execDuration") // since Docker 23
	for _, k := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		words = append(words, p.normalText(k+"="+e.Actor.Attributes[k]))
	}
	return strings.Join(words, " ")
}

var variable = regexp.MustCompile(`\$(?:([a-z0-9]+)|\{([a-z0-9]+):(\d+)\})`)

// expand puts names and kept values in the place of variables.
func (p *play) expand(text string) string {
	return variable.ReplaceAllStringFunc(text, func(v string) string {
		m := variable.FindStringSubmatch(v)
		name := m[1] + m[2]
		value, found := p.kept[name]
		if !found {
			value = p.prefix + name
		}
		if n := 0; m[3] != "" {
			_, _ = fmt.Sscan(m[3], &n) // the pattern has digits only
			value = value[:min(n, len(value))]
		}
		return value
	})
}

func (p *play) step(ctx context.Context, s step) error {
	target, body := p.expand(s.target), p.expand(s.body)
	switch s.verb {
	case "create", "run":
		r, err := withDefaults(body)
		if err != nil {
			return err
		}
		if err := p.request(ctx, s, "POST", "/containers/create?name="+p.prefix+s.target, r); err != nil || s.verb == "create" {
			return err
		}
		return p.request(ctx, step{label: "start " + s.target, text: s.text}, "POST", "/containers/"+p.prefix+s.target+"/start", nil)
	case "exec":
		return p.exec(ctx, s, body)
	case "ATTACH":
		return p.attach(ctx, s, target, body)
	case "tar":
		archive, err := pack(strings.Fields(body))
		if err != nil {
			return err
		}
		return p.request(ctx, s, "PUT", target, archive)
	case "until":
		path, want, _ := strings.Cut(body, "=")
		return p.until(ctx, target, path, want)
	case "logged":
		return p.logged(ctx, p.prefix+s.target, body)
	case "exited":
		return p.until(ctx, "/containers/"+p.prefix+s.target+"/json", "State.Status", "exited")
	}
	var sent any
	if s.input != "" {
		sent = []byte(s.input)
	} else if body != "" {
		sent = json.RawMessage(body)
	}
	return p.request(ctx, s, s.verb, target, sent)
}

// withDefaults adds the image and the network of most scenarios to a container's configuration.
func withDefaults(body string) (json.RawMessage, error) {
	config := map[string]json.RawMessage{}
	if body != "" {
		if err := json.Unmarshal([]byte(body), &config); err != nil {
			return nil, fmt.Errorf("%s: %w", body, err)
		}
	}
	if _, found := config["Image"]; !found {
		config["Image"] = json.RawMessage(`"box"`)
	}
	host := map[string]json.RawMessage{}
	if text, found := config["HostConfig"]; found {
		if err := json.Unmarshal(text, &host); err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
	}
	if _, found := host["NetworkMode"]; !found {
		host["NetworkMode"] = json.RawMessage(`"none"`)
	}
	var err error
	if config["HostConfig"], err = json.Marshal(host); err != nil {
		return nil, err
	}
	return json.Marshal(config)
}

// send makes a request: body is nil, JSON or an archive. Its answer's body is the caller's to close.
func (p *play) open(ctx context.Context, method, target string, body any, header ...string) (*http.Response, error) {
	var reader io.Reader
	kind := ""
	switch b := body.(type) {
	case json.RawMessage:
		reader, kind = bytes.NewReader(b), "application/json"
	case []byte:
		reader, kind = bytes.NewReader(b), "application/x-tar"
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://engine"+versioned(encode(target)), reader)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	return p.engine.client.Do(r)
}

// versioned puts the version before a path that names none: that of the reference.
func versioned(target string) string {
	if strings.HasPrefix(target, "/v1.") || strings.HasPrefix(target, "/_ping") || strings.HasPrefix(target, "//") {
		return target
	}
	return "/v1.41" + target
}

// encode escapes what a URL's query may not have as it is.
func encode(target string) string {
	path, query, found := strings.Cut(target, "?")
	if !found {
		return target
	}
	var b strings.Builder
	for _, c := range []byte(query) {
		if c <= ' ' || c > '~' || strings.IndexByte(`"<>[]^\{|}`+"`", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return path + "?" + b.String()
}

// send is open for an answer that nobody compares.
func (p *play) send(ctx context.Context, method, target string, body any) ([]byte, error) {
	answer, err := p.open(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// request makes a request, and records the answer.
func (p *play) request(ctx context.Context, s step, method, target string, body any) error {
	background, cancel := context.WithCancel(ctx)
	answer, err := p.open(background, method, target, body, s.header[0], s.header[1])
	if err != nil {
		cancel()
		return err
	}
	at := len(p.records)
	p.records = append(p.records, record{label: s.label, text: s.text})
	if !s.background {
		defer cancel()
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		p.learn(s, method, target, text)
		p.records[at].value = p.answer(s, answer, text, err)
		return nil
	}
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		done <- result{text, err}
	}()
	p.waiting = append(p.waiting, func() {
		defer cancel()
		var r result
		select {
		case r = <-done:
		case <-time.After(streamPatience):
			cancel()
			r = <-done
			r.err = errors.New("the answer did not end")
		}
		p.records[at].value = p.answer(s, answer, r.text, r.err)
	})
	return nil
}

// learn keeps the id that an answer has.
func (p *play) learn(s step, method, target string, text []byte) {
	var created struct{ Id string } //nolint:staticcheck // the API's name
	if method != "POST" || json.Unmarshal(text, &created) != nil || created.Id == "" {
		return
	}
	if s.keep != "" {
		p.kept[s.keep] = created.Id
	}
	stands := s.keep
	if strings.Contains(target, "/containers/create") {
		p.containers = append(p.containers, created.Id)
		if _, name, found := strings.Cut(target, "name="); found {
			name, _, _ = strings.Cut(name, "&")
			stands = strings.TrimPrefix(name, p.prefix)
		}
	}
	if stands == "" {
		stands = fmt.Sprint("id", len(p.ids)+1)
	}
	p.ids[created.Id] = stands
}

// compared are the headers that clients read.
var compared = []string{"Content-Type", "Connection", "Upgrade", "Ostype", "Docker-Experimental", "Cache-Control", "Pragma", "Builder-Version", "Swarm", "Location"}

// answer puts an answer into a form that compares.
func (p *play) answer(s step, answer *http.Response, text []byte, err error) any {
	value := map[string]any{"status": json.Number(fmt.Sprint(answer.StatusCode))}
	headers := map[string]any{}
	for _, name := range compared {
		if got := answer.Header.Get(name); got != "" {
			headers[name] = got
		}
	}
	if stat := answer.Header.Get("X-Docker-Container-Path-Stat"); stat != "" {
		decoded, err := base64.StdEncoding.DecodeString(stat)
		headers["stat"] = p.normal("", parseJSON(decoded))
		if err != nil {
			headers["stat"] = stat
		}
	}
	value["header"] = headers
	if err != nil {
		value["end"] = p.normalText(err.Error())
	}
	if len(text) == 0 || slices.Equal(s.show, []string{"-"}) {
		return value
	}
	if answer.StatusCode >= 400 { // its words count
		s.show = nil
	}
	value["body"] = p.body(s, answer.Header.Get("Content-Type"), text)
	return value
}

// body decodes what an answer has: JSON, an archive, frames, or text.
func (p *play) body(s step, media string, text []byte) any {
	if media == "application/x-tar" || slices.Equal(s.show, []string{"tar"}) {
		return p.archive(text)
	}
	if output, ok := frames(text); ok {
		return p.normal("", output)
	}
	parsed := parseJSON(text)
	if changes, isList := parsed.([]any); isList && strings.HasSuffix(s.label, "/changes") { // in no order
		slices.SortFunc(changes, func(a, b any) int {
			return strings.Compare(fmt.Sprint(lookup(a, []string{"Path"})), fmt.Sprint(lookup(b, []string{"Path"})))
		})
	}
	if s.show == nil {
		return p.normal("", parsed)
	}
	shown := map[string]any{}
	for _, path := range s.show {
		keys := strings.Split(path, ".")
		shown[path] = p.normal(keys[len(keys)-1], lookup(parsed, keys))
	}
	return shown
}

// parseJSON returns a value, a list of values if there are many, or the text itself.
func parseJSON(text []byte) any {
	decode := json.NewDecoder(bytes.NewReader(text))
	decode.UseNumber()
	var all []any
	for {
		var v any
		if err := decode.Decode(&v); err == io.EOF {
			break
		} else if err != nil {
			return string(text)
		}
		all = append(all, v)
	}
	if len(all) == 1 {
		return all[0]
	}
	return all
}

// lookup follows keys into a value; "[]" stands for every element. What is not there is "(missing)".
func lookup(v any, keys []string) any {
	if len(keys) == 0 {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		if inner, found := v[keys[0]]; found {
			return lookup(inner, keys[1:])
		}
	case []any:
		if keys[0] == "[]" {
			var all []any
			for _, inner := range v {
				all = append(all, lookup(inner, keys[1:]))
			}
			if len(keys) == 2 && keys[1] == "Name" { // of networks and volumes: they are in no order
				slices.SortFunc(all, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
			return all
		}
		if i := 0; len(v) > 0 {
			if _, err := fmt.Sscan(keys[0], &i); err == nil && i < len(v) {
				return lookup(v[i], keys[1:])
			}
		}
	}
	return "(missing)"
}

// frames decodes a stream of frames, each of eight bytes of header and a payload.
func frames(text []byte) (map[string]any, bool) {
	output := map[string]any{}
	for len(text) > 0 {
		if len(text) < 8 || text[0] > 3 || text[1] != 0 || text[2] != 0 || text[3] != 0 {
			return nil, false
		}
		n := int(binary.BigEndian.Uint32(text[4:]))
		if n > len(text)-8 {
			return nil, false
		}
		name := []string{"stdin", "stdout", "stderr", "systemerr"}[text[0]]
		before, _ := output[name].(string)
		output[name] = before + string(text[8:8+n])
		text = text[8+n:]
	}
	return output, len(output) > 0
}

// archive lists what a tar archive has, a line a file.
func (p *play) archive(text []byte) any {
	var lines []any
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			return append(lines, p.normalText(err.Error()))
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return append(lines, p.normalText(err.Error()))
		}
		line := fmt.Sprintf("%s %c %o %d:%d %d", h.Name, h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, h.Size)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if len(content) > 0 && len(content) < 200 {
			line += " " + string(content)
		}
		lines = append(lines, p.normalText(line))
	}
}

// pack makes an archive of NAME=TEXT, DIRECTORY/ and LINK->TARGET.
func pack(files []string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, file := range files {
		name, text, _ := strings.Cut(file, "=")
		h := &tar.Header{Name: name, Mode: 0o640, Size: int64(len(text)), Uid: 7, Gid: 8, ModTime: time.Unix(1700000000, 0)}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o750
		} else if link, to, found := strings.Cut(file, "->"); found {
			h.Name, h.Typeflag, h.Linkname, h.Size, text = link, tar.TypeSymlink, to, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// until repeats a request.
func (p *play) until(ctx context.Context, target, path, want string) error {
	keys := strings.Split(path, ".")
	for {
		text, err := p.send(ctx, "GET", target, nil)
		if err != nil {
			return err
		}
		got := fmt.Sprint(lookup(parseJSON(text), keys))
		if got == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s stays %q: %s", path, got, text)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// logged waits until a container has written a text.
func (p *play) logged(ctx context.Context, name, want string) error {
	for {
		text, err := p.send(ctx, "GET", "/containers/"+name+"/logs?stdout=1&stderr=1", nil)
		if err != nil || bytes.Contains(text, []byte(want)) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s never wrote %q, but %q", name, want, text)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// exec creates a command and starts it.
func (p *play) exec(ctx context.Context, s step, body string) error {
	config := map[string]any{"AttachStdout": true, "AttachStderr": true, "AttachStdin": s.input != ""}
	if err := json.Unmarshal([]byte(body), &config); err != nil {
		return fmt.Errorf("%s: %w", body, err)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	s.keep = cmpOr(s.keep, "exec")
	if err := p.request(ctx, step{label: "exec create", text: s.text, keep: s.keep}, "POST", "/containers/"+p.prefix+s.target+"/exec", json.RawMessage(text)); err != nil {
		return err
	}
	id := p.kept[s.keep]
	start := fmt.Sprintf(`{"Tty":%v}`, config["Tty"] == true)
	if err := p.attach(ctx, s, "/exec/"+id+"/start", start); err != nil || s.background {
		return err
	}
	if id == "" {
		return nil
	}
	if err := p.until(ctx, "/exec/"+id+"/json", "Running", "false"); err != nil {
		return err
	}
	return p.request(ctx, step{label: "exec inspect", text: s.text, show: []string{"ExitCode"}}, "GET", "/exec/"+id+"/json", nil)
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// attach takes over a connection, sends the input, and reads the output to its end.
func (p *play) attach(ctx context.Context, s step, target, body string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.engine.socket())
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		versioned(encode(target)), len(body), body)
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return err
	}
	at := len(p.records)
	p.records = append(p.records, record{label: s.label, text: s.text})
	if answer.StatusCode >= 300 {
		text, err := io.ReadAll(answer.Body)
		p.records[at].value = p.answer(s, answer, text, err)
		return conn.Close()
	}
	collect := func() {
		defer conn.Close()
		// All that it waits for has happened.
		_ = conn.SetReadDeadline(time.Now().Add(streamPatience))
		text, err := io.ReadAll(reader)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			err = errors.New("the answer did not end")
		}
		p.records[at].value = p.answer(s, answer, text, err)
	}
	if s.input != "" {
		if _, err := io.WriteString(conn, s.input); err != nil {
			return err
		}
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			return err
		}
	}
	if s.background {
		p.waiting = append(p.waiting, collect)
		return nil
	}
	collect()
	return nil
}

var (
	timestamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	longID    = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	address   = regexp.MustCompile(`\b(172\.\d+|10\.\d+|192\.168)\.\d+\.\d+\b`)
	sandbox   = regexp.MustCompile(`<engine>/run/netns/\w+|/proc/\d+/ns/net`)
	madeUp    = regexp.MustCompile(`\bname=[a-z]+_[a-z]+\d?$|^/[a-z]+_[a-z]+\d?$`)
	mac       = regexp.MustCompile(`\b02:42(:[0-9a-f]{2}){4}\b|\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)
	age       = regexp.MustCompile(`(?i)\b(about )?(an?|\d+|less than a) (second|minute|hour|day|week|month|year)s?\b`)
)

// normalText takes away what must differ between two engines: names of their own, ids, times, paths, addresses.
func (p *play) normalText(s string) string {
	s = strings.ReplaceAll(s, p.engine.dir, "<engine>")
	for id, name := range p.engine.images {
		s = strings.ReplaceAll(s, id, "<image "+name+">")
		s = strings.ReplaceAll(s, strings.TrimPrefix(id, "sha256:")[:12], "<image "+name+":12>")
	}
	for id, stands := range p.ids {
		s = strings.ReplaceAll(s, id, "<"+stands+">")
		if len(id) == 64 {
			s = strings.ReplaceAll(s, id[:12], "<"+stands+":12>")
		}
	}
	s = strings.ReplaceAll(s, p.prefix, "")
	s = timestamp.ReplaceAllStringFunc(s, func(t string) string {
		if strings.HasPrefix(t, "0001-") || strings.HasPrefix(t, "2024-01-02T03:04:05") {
			return t
		}
		return "<time>"
	})
	if !strings.HasPrefix(s, "sha256:") {
		s = longID.ReplaceAllString(s, "<hex>")
	}
	s = address.ReplaceAllString(s, "<address>")
	s = sandbox.ReplaceAllString(s, "<sandbox>")
	s = madeUp.ReplaceAllString(s, "<made up>")
	s = mac.ReplaceAllString(s, "<mac>")
	return age.ReplaceAllString(s, "<age>")
}

// messageWords leaves the case and the quotes of an error's words out: both change from one version of dockerd to the next.
func messageWords(s string) string {
	return strings.NewReplacer(`"`, "", "'", "", "`", "").Replace(strings.ToLower(s))
}

// varying are numbers that differ from run to run; unordered are lists whose order means nothing.
var (
	varying   = []string{"Pid", "time", "timeNano", "Created", "HostPort"}
	unordered = []string{"Mounts", "Ports", "Volumes", "RepoTags", "VolumesDeleted", "ContainersDeleted", "ImagesDeleted"}
)

// normal is normalText for every string of a value; key is where the value is.
func (p *play) normal(key string, v any) any {
	switch v := v.(type) {
	case string:
		if key == "message" {
			return messageWords(p.normalText(v))
		}
		if slices.Contains(varying, key) && v != "" && key != "Created" {
			return "<" + key + ">"
		}
		return p.normalText(v)
	case json.Number:
		if slices.Contains(varying, key) && v != "0" {
			return "<" + key + ">"
		}
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = p.normal(key, v[i])
		}
		if slices.Contains(unordered, key) {
			slices.SortStableFunc(list, func(a, b any) int { return strings.Compare(compact(a), compact(b)) })
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for k, inner := range v {
			object[p.normalText(k)] = p.normal(k, inner)
		}
		return object
	}
	return v
}

// compact is a value as JSON text.
func compact(v any) string {
	var b bytes.Buffer
	encode := json.NewEncoder(&b)
	encode.SetEscapeHTML(false)
	if err := encode.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(b.String())
}
