package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// environment merges --env-file and -e in docker's order: files first, flags last.
// A bare -e NAME takes the value from lookup; a name that has none stays bare and removes the image's variable.
func environment(files, flags []string, lookup func(string) (string, bool)) ([]string, error) {
	env, err := keyValueFiles(files, lookup)
	if err != nil {
		return nil, err
	}
	for _, kv := range flags {
		name, _, hasValue := strings.Cut(kv, "=")
		if name == "" {
			return nil, fmt.Errorf("invalid environment variable: %q", kv)
		}
		if value, ok := lookup(name); !hasValue && ok {
			kv = name + "=" + value
		}
		env = append(env, kv)
	}
	return env, nil
}

// labelMap merges --label-file and -l.
func labelMap(files, flags []string) (map[string]string, error) {
	lines, err := keyValueFiles(files, nil)
	if err != nil {
		return nil, err
	}
	for _, label := range flags {
		if key, _, _ := strings.Cut(label, "="); key == "" {
			return nil, fmt.Errorf("invalid label: %q: the name is empty", label)
		}
	}
	return keyValues(append(lines, flags...)), nil
}

func keyValueFiles(files []string, lookup func(string) (string, bool)) ([]string, error) {
	var lines []string
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read key-value file: %w", err)
		}
		more, err := parseKeyValues(data, lookup)
		if err != nil {
			return nil, fmt.Errorf("invalid file %s: %w", path, err)
		}
		lines = append(lines, more...)
	}
	return lines, nil
}

// parseKeyValues reads NAME=value lines; # starts a comment line, blank lines do not count. A bare NAME takes its
// value from lookup and is left out when it has none; without lookup it stays bare.
func parseKeyValues(data []byte, lookup func(string) (string, bool)) ([]string, error) {
	var out []string
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 1<<20)
	for number := 1; scanner.Scan(); number++ {
		raw := scanner.Text()
		if !utf8.ValidString(raw) {
			return nil, fmt.Errorf("line %d is not valid UTF-8", number)
		}
		line := strings.TrimLeftFunc(raw, unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, hasValue := strings.Cut(line, "=")
		switch {
		case name == "":
			return nil, fmt.Errorf("line %d has no variable name: %q", number, line)
		case strings.ContainsFunc(name, unicode.IsSpace):
			return nil, fmt.Errorf("line %d: variable %q contains whitespaces", number, name)
		case hasValue:
			out = append(out, name+"="+value)
		case lookup == nil:
			out = append(out, name)
		default:
			if value, ok := lookup(name); ok {
				out = append(out, name+"="+value)
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	return out, nil
}
