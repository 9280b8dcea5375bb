package oci_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"gantry/oci"
	"gantry/spawn"
)

// A bundle, a directory with config.json and the container's files, is run to its end.
func ExampleRuntime() {
	ctx, runtime := context.Background(), &oci.Runtime{Root: "/run/example"}
	container, process, err := runtime.Create(ctx, "hello", oci.CreateOptions{
		Bundle: "/bundle", Stdio: oci.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr},
	})
	if err != nil {
		log.Fatal(err) // nothing is left of it
	}
	defer process.Pidfd.Close()
	if err := container.Start(ctx); err != nil {
		log.Print(err)
	}
	status, err := spawn.Reap(process.Pidfd) // the process is a child of this one
	if err != nil {
		log.Print(err)
	}
	if err := container.Delete(ctx, false); err != nil {
		log.Print(err)
	}
	fmt.Println("exit status", status.ExitStatus())
}
