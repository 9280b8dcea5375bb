package spawn_test

import (
	"fmt"
	"log"
	"os"

	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// A process with a host name of its own: the plan is printed, then run.
func Example() {
	name := "inside"
	plan := spawn.Plan{Namespaces: unix.CLONE_NEWUTS}
	plan.Add("set hostname "+name, unix.SYS_SETHOSTNAME, spawn.Str(name), spawn.Int(len(name)))
	plan.Add("exec /bin/true", unix.SYS_EXECVE, spawn.Str("/bin/true"), spawn.Strs([]string{"true"}), spawn.Strs(nil))
	if _, err := plan.WriteTo(os.Stdout); err != nil {
		log.Fatal(err)
	}

	child, err := spawn.Start(&plan)
	if err != nil {
		log.Fatal(err) // "set hostname inside: operation not permitted"
	}
	defer child.Close()
	status, err := child.Wait()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("exit status", status.ExitStatus())
	// Output:
	//      make the process
	//        clone3({flags=CLONE_NEWUTS|CLONE_PIDFD|CLONE_CLEAR_SIGHAND})
	//    1 set hostname inside
	//        sethostname("inside", 6)
	//    2 exec /bin/true
	//        execve("/bin/true", ["true"], [])
	// exit status 0
}
