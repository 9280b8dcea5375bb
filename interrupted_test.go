package gantry

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mayWait are the calls of golang.org/x/sys/unix that the kernel can interrupt (EINTR), as signal(7) lists them. Close is
// none of them: it must not be repeated.
var mayWait = map[string]bool{
	"Accept": true, "Accept4": true, "Connect": true, "CopyFileRange": true, "EpollWait": true, "Fdatasync": true, "Flock": true,
	"Fsync": true, "Getrandom": true, "Nanosleep": true, "Open": true, "Openat": true, "Openat2": true, "Poll": true, "Ppoll": true,
	"Pread": true, "Pwrite": true, "Read": true, "Recvfrom": true, "Recvmsg": true, "Select": true, "Sendfile": true, "Sendmsg": true,
	"SendmsgN": true, "Sendto": true, "Splice": true, "Tee": true, "Wait4": true, "Waitid": true, "Write": true,
}

// TestInterruptedCallsAreRepeated finds raw system calls that no function of package rawfile repeats and whose
// function does not speak of EINTR itself.
func TestInterruptedCallsAreRepeated(t *testing.T) {
	checked := 0
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "test/") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			checked += checkCalls(t, set, declaration, false)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 20 {
		t.Errorf("only %d calls were found", checked)
	}
}

// checkCalls looks at the calls below a node; handled tells that somebody above repeats them.
func checkCalls(t *testing.T, set *token.FileSet, root ast.Node, handled bool) (checked int) {
	if f, ok := root.(*ast.FuncDecl); ok {
		handled = mentions(f, "EINTR")
	}
	ast.Inspect(root, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		from, name := selector(call)
		if from == "rawfile" && strings.HasPrefix(name, "Retry") {
			for _, argument := range call.Args {
				checked += checkCalls(t, set, argument, true)
			}
			return false
		}
		if from == "unix" && mayWait[name] {
			checked++
			if !handled {
				t.Errorf("%s: a signal may interrupt unix.%s: wrap it in rawfile.Retry", set.Position(call.Pos()), name)
			}
		}
		return true
	})
	return checked
}

func selector(call *ast.CallExpr) (from, name string) {
	if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "Retry" {
		return "rawfile", f.Name
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	if x, ok := s.X.(*ast.Ident); ok {
		return x.Name, s.Sel.Name
	}
	return "", ""
}

func mentions(root ast.Node, word string) (found bool) {
	ast.Inspect(root, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && id.Name == word
		return !found
	})
	return found
}
