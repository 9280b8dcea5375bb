// Command isolate runs a program of tests in namespaces of its own and fails if the program leaves anything behind:
//
//	go test -exec 'isolate' ./...
//	isolate -leftovers PROGRAM ARGUMENTS…   what it leaves behind is no failure
package main

import (
	"flag"
	"fmt"
	"os"

	"gantry/test/isolate"
)

func main() {
	isolate.Init()
	leftovers := flag.Bool("leftovers", false, "do not look for what is left behind")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "isolate [-leftovers] PROGRAM ARGUMENTS…")
		os.Exit(2)
	}
	code, err := isolate.Run(flag.Args(), *leftovers)
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		code = max(1, code)
	}
	os.Exit(code)
}
