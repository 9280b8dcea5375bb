// Command gantry is the command line of the container platform: docker's verbs and flags.
package main

import (
	"context"
	"os"

	"gantry/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:]))
}
