package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// search is what find looks for: every test must hold.
type search struct {
	tests           []func(path string, e fs.DirEntry) bool
	actions         []func(path string) error
	lowest, deepest int
	contentsFirst   bool
}

func find(args []string) error {
	rest := args[1:]
	var roots []string
	for len(rest) > 0 && rest[0][:min(1, len(rest[0]))] != "-" {
		roots, rest = append(roots, rest[0]), rest[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	s := search{deepest: 1 << 30}
	for len(rest) > 0 {
		n, err := s.word(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if len(s.actions) == 0 {
		s.actions = append(s.actions, func(path string) error {
			_, err := fmt.Println(path)
			return err
		})
	}
	return each(roots, func(root string) error { return s.visit(root, 0) })
}

// word takes in the next expression and returns the number of words it has.
func (s *search) word(words []string) (int, error) {
	switch words[0] {
	case "-print", "-a", "-and":
		return 1, nil
	case "-print0":
		s.actions = append(s.actions, func(path string) error {
			_, err := fmt.Print(path + "\x00")
			return err
		})
		return 1, nil
	case "-delete":
		s.contentsFirst = true
		s.actions = append(s.actions, os.Remove)
		return 1, nil
	case "-depth":
		s.contentsFirst = true
		return 1, nil
	case "-exec":
		return s.exec(words)
	}
	if len(words) < 2 {
		return 0, fmt.Errorf("%s: unknown, or its value is missing", words[0])
	}
	return 2, s.test(words[0], words[1])
}

func (s *search) test(name, value string) (err error) {
	add := func(f func(path string, e fs.DirEntry) bool) { s.tests = append(s.tests, f) }
	switch name {
	case "-name", "-iname":
		fold := func(text string) string { return text }
		if name == "-iname" {
			fold = strings.ToLower
		}
		if _, err := filepath.Match(fold(value), ""); err != nil {
			return fmt.Errorf("%s %s: %w", name, value, err)
		}
		add(func(path string, _ fs.DirEntry) bool {
			ok, _ := filepath.Match(fold(value), fold(filepath.Base(path)))
			return ok
		})
	case "-path":
		add(func(path string, _ fs.DirEntry) bool {
			ok, _ := filepath.Match(value, path)
			return ok
		})
	case "-type":
		kinds := map[string]fs.FileMode{
			"f": 0, "d": fs.ModeDir, "l": fs.ModeSymlink, "p": fs.ModeNamedPipe, "s": fs.ModeSocket,
			"b": fs.ModeDevice, "c": fs.ModeDevice | fs.ModeCharDevice,
		}
		kind, ok := kinds[value]
		if !ok {
			return fmt.Errorf("-type %s: unknown", value)
		}
		add(func(_ string, e fs.DirEntry) bool { return e.Type() == kind })
	case "-maxdepth":
		s.deepest, err = strconv.Atoi(value)
	case "-mindepth":
		s.lowest, err = strconv.Atoi(value)
	default:
		return fmt.Errorf("%s: unknown", name)
	}
	return err
}

// exec runs a command for each file; {} stands for its path, as a whole word or a part of one.
func (s *search) exec(words []string) (int, error) {
	end := slices.IndexFunc(words, func(w string) bool { return w == ";" || w == "+" })
	if end < 2 {
		return 0, errors.New("-exec: want COMMAND [ARGUMENT]... ';'")
	}
	command := words[1:end]
	s.actions = append(s.actions, func(path string) error {
		argv := make([]string, len(command))
		for i, word := range command {
			argv[i] = strings.ReplaceAll(word, "{}", path)
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	})
	return end + 1, nil
}

func (s *search) visit(path string, depth int) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	var errs []error
	act := func() {
		if depth < s.lowest {
			return
		}
		e := fs.FileInfoToDirEntry(info)
		for _, test := range s.tests {
			if !test(path, e) {
				return
			}
		}
		for _, action := range s.actions {
			errs = append(errs, action(path))
		}
	}
	if !s.contentsFirst {
		act()
	}
	if info.IsDir() && depth < s.deepest {
		found, err := os.ReadDir(path)
		errs = append(errs, err)
		for _, f := range found {
			errs = append(errs, s.visit(filepath.Join(path, f.Name()), depth+1))
		}
	}
	if s.contentsFirst {
		act()
	}
	return errors.Join(errs...)
}
