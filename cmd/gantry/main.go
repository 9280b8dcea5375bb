// Command gantry is the command line of the container platform: docker's verbs and flags.
package main

import (
	"context"
	"os"

	"gantry/internal/cli"
	"gantry/internal/early"
)

func main() {
	if os.Getenv(early.Variable) == early.Value {
		_ = os.Unsetenv(early.Variable) // it fails for impossible names only
	}
	os.Exit(cli.Main(context.Background(), os.Args[1:]))
}
