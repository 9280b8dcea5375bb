// Command containerd-shim-gantry-v1 is the supervisor of an engine's containers; see docs/supervisor.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/shim"
	"gantry/internal/shim/client"
	"gantry/internal/version"
)

func main() {
	var config shim.Config
	flag.StringVar(&config.Dir, "dir", "", "`DIRECTORY` of the sockets")
	flag.StringVar(&config.Namespace, "namespace", "gantry", "containerd `NAMESPACE` of the events")
	flag.StringVar(&config.Runtime, "runtime", "", "state `DIRECTORY` of the containers")
	flag.StringVar(&config.Events, "events", "", "`SOCKET` of containerd's events service")
	flag.DurationVar(&config.Idle, "idle", 3*time.Second, "end after this long without containers and connections")
	readyFD := flag.Int("ready-fd", -1, "`DESCRIPTOR` to report the start on")
	showVersion := flag.Bool("version", false, "print the version")
	flag.Usage = func() {
		_, _ = fmt.Fprintf(flag.CommandLine.Output(), "usage: %s -dir DIRECTORY -runtime DIRECTORY [flags] serve\n", os.Args[0])
		flag.PrintDefaults()
	}
	flag.Parse()
	if *showVersion {
		fmt.Println(version.Version)
		return
	}
	if flag.Arg(0) != "serve" || flag.NArg() != 1 || config.Dir == "" || config.Runtime == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(config, *readyFD); err != nil {
		slog.Error("supervisor", "error", err)
		os.Exit(1)
	}
}

// serve tells the starter on a descriptor, if it gave one, how it went.
func serve(config shim.Config, readyFD int) error {
	runtime.GOMAXPROCS(min(4, runtime.NumCPU()))
	debug.SetGCPercent(50)
	shim.IgnoreSignals()
	if err := shim.Outlive(); err != nil {
		slog.Warn("supervisor", "error", err)
	}
	if readyFD < 0 {
		return shim.Serve(context.Background(), config, func() error { return nil })
	}
	unix.CloseOnExec(readyFD)
	starter := os.NewFile(uintptr(readyFD), "starter")
	err := shim.Serve(context.Background(), config, func() error {
		_, err := starter.WriteString(client.Ready)
		if closeErr := starter.Close(); err == nil {
			err = closeErr
		}
		return err
	})
	if err != nil {
		_, _ = fmt.Fprintln(starter, err) // closed if it was ready
	}
	return err
}
