// Command mkimage makes the toolbox image: an OCI image layout in a tar archive, which docker, podman and skopeo load
// too. The same programs give the same bytes.
//
//	mkimage [-toolbox FILE -core FILE -bare FILE] [-arch ARCH] -o ARCHIVE
//
// Without the programs it builds them, from gantry/cmd/toolbox and gantry/cmd/gantry-init.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const (
	source  = "gantry/cmd/toolbox"
	coreTag = "toolbox_core"

	bareSource = "gantry/cmd/gantry-init"
	bareLinked = "-s -w -E main.entry"
)

// bareApplets are the names that gantry-init knows.
var bareApplets = []string{"false", "sleep", "true"}

type settings struct {
	toolbox, core, bare string
	arch, output        string
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("mkimage: ")
	var s settings
	flag.StringVar(&s.toolbox, "toolbox", "", "the program with all applets; built if not given")
	flag.StringVar(&s.core, "core", "", "the program built with the tag "+coreTag+"; built if not given")
	flag.StringVar(&s.bare, "bare", "", "gantry-init; built if not given")
	flag.StringVar(&s.arch, "arch", runtime.GOARCH, "the image's architecture, as GOARCH")
	flag.StringVar(&s.output, "o", "", "the archive to write")
	flag.Parse()
	if s.output == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := s.run(); err != nil {
		log.Fatal(err)
	}
}

func (s settings) run() error {
	dir, err := os.MkdirTemp("", "mkimage-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	all, err := s.program(dir, "toolbox", s.toolbox)
	if err != nil {
		return err
	}
	core, err := s.program(dir, "toolbox-core", s.core, "-tags", coreTag)
	if err != nil {
		return err
	}
	bare, err := s.bareProgram(dir)
	if err != nil {
		return err
	}
	image, err := archive(s.arch, all, core, bare)
	if err != nil {
		return err
	}
	return write(s.output, image)
}

// program is an executable of the image and the applets in it.
type program struct {
	name    string
	content []byte
	applets []string
}

func (s settings) program(dir, name, path string, flags ...string) (program, error) {
	if path == "" {
		path = filepath.Join(dir, name)
		if err := build(s.arch, path, source, append(flags, "-ldflags", "-s -w")...); err != nil {
			return program{}, err
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return program{}, err
	}
	runnable := path
	if s.arch != runtime.GOARCH { // another machine's program cannot be asked
		runnable = filepath.Join(dir, name+"-native")
		if err := build(runtime.GOARCH, runnable, source, append(flags, "-ldflags", "-s -w")...); err != nil {
			return program{}, err
		}
	}
	if runnable, err = filepath.Abs(runnable); err != nil {
		return program{}, err
	}
	list := exec.Command(runnable, "--list")
	list.Args[0] = "toolbox"
	out, err := list.Output()
	if err != nil {
		return program{}, fmt.Errorf("list the applets of %s: %w", path, err)
	}
	applets := strings.Fields(string(out))
	if !slices.Contains(applets, "true") {
		return program{}, fmt.Errorf("%s is not the toolbox: it lists %q", path, applets)
	}
	return program{name, content, applets}, nil
}

// bareProgram is the one without Go's runtime.
func (s settings) bareProgram(dir string) (program, error) {
	path := s.bare
	if path == "" {
		path = filepath.Join(dir, "toolbox-bare")
		if err := build(s.arch, path, bareSource, "-ldflags", bareLinked); err != nil {
			return program{}, err
		}
	}
	content, err := os.ReadFile(path)
	return program{"toolbox-bare", content, bareApplets}, err
}

func build(arch, path, source string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", path}, flags...)
	cmd := exec.Command("go", append(args, source)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s for %s: %w", source, arch, err)
	}
	return nil
}

// write replaces path by content in one step, and not at all if it has it: what embeds it need not be built again.
func write(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // a no-op after the rename
	if _, err := file.Write(content); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Chmod(0o644); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
