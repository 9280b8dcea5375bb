// Command containerd-shim-gantry-v1 is the supervisor of an engine's containers; see docs/supervisor.md.
package main

import (
	"context"
	"errors"
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
	"gantry/spawn"
)

func main() {
	var config shim.Config
	var call shim.Invocation
	flag.StringVar(&config.Dir, "dir", "", "`DIRECTORY` of the sockets")
	flag.StringVar(&config.Namespace, "namespace", "gantry", "containerd `NAMESPACE` of the events")
	flag.StringVar(&config.Runtime, "runtime", "", "state `DIRECTORY` of the containers")
	flag.StringVar(&config.Events, "events", "", "`SOCKET` of containerd's events service")
	flag.DurationVar(&config.Idle, "idle", 3*time.Second, "end after this long without containers and connections")
	readyFD := flag.Int("ready-fd", -1, "`DESCRIPTOR` to report the start on")
	keptFD := flag.Int("kept-fd", -1, "`DESCRIPTOR` to receive from what the engine kept of an earlier supervisor")
	showVersion := flag.Bool("version", false, "print the version")
	flag.StringVar(&call.Address, "address", "", "`SOCKET` of containerd")
	flag.StringVar(&call.ID, "id", "", "`ID` of the container")
	for _, name := range []string{"bundle", "publish-binary", "socket"} {
		flag.String(name, "", "given by containerd; not used")
	}
	flag.Bool("debug", false, "given by containerd; not used")
	flag.Usage = func() {
		_, _ = fmt.Fprintf(flag.CommandLine.Output(), "usage: %s -dir DIRECTORY -runtime DIRECTORY [flags] serve\n       %[1]s -namespace NAMESPACE -address SOCKET -id ID start|delete   (by containerd)\n", os.Args[0])
		flag.PrintDefaults()
	}
	flag.Parse()
	if *showVersion {
		fmt.Println(version.Version)
		return
	}
	call.Namespace = config.Namespace
	if err := dispatch(config, call, *readyFD, *keptFD); err != nil {
		slog.Error("supervisor", "error", err)
		os.Exit(1)
	}
}

func dispatch(config shim.Config, call shim.Invocation, readyFD, keptFD int) error {
	ctx := context.Background()
	command := flag.Arg(0)
	switch {
	case flag.NArg() == 1 && command == "serve" && config.Dir != "" && config.Runtime != "":
		return serve(config, readyFD, keptFD)
	case flag.NArg() == 1 && command == "start":
		address, err := call.Start(ctx)
		if err == nil {
			_, err = fmt.Print(address)
		}
		return err
	case flag.NArg() == 1 && command == "delete":
		response, err := call.Delete(ctx)
		if err == nil {
			_, err = os.Stdout.Write(response)
		}
		return err
	}
	flag.Usage()
	os.Exit(2)
	return nil
}

// serve tells the starter on a descriptor, if it gave one, how it went.
func serve(config shim.Config, readyFD, keptFD int) error {
	if err := spawn.SealSelf(); err != nil {
		return err
	}
	spawn.KeepMemory()
	runtime.GOMAXPROCS(min(4, runtime.NumCPU()))
	debug.SetGCPercent(200)
	shim.IgnoreSignals()
	leave, err := shim.Outlive()
	if err != nil {
		slog.Warn("supervisor", "error", err)
	}
	defer leave()
	if keptFD >= 0 {
		unix.CloseOnExec(keptFD)
		config.Kept = os.NewFile(uintptr(keptFD), "kept")
	}
	if readyFD < 0 {
		return shim.Serve(context.Background(), config, func() error { return nil })
	}
	unix.CloseOnExec(readyFD)
	starter := os.NewFile(uintptr(readyFD), "starter")
	err = shim.Serve(context.Background(), config, func() error {
		_, err := starter.WriteString(client.Ready)
		if errors.Is(err, unix.EPIPE) { // the starter was killed: another one comes
			err = nil
		}
		return errors.Join(err, starter.Close())
	})
	if errors.Is(err, shim.ErrTaken) {
		_, _ = starter.WriteString(client.Taken)
		return nil
	}
	if err != nil {
		_, _ = fmt.Fprintln(starter, err) // closed if it was ready
	}
	return err
}
