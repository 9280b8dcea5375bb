// Command program prints how many processors Go uses, its arguments and its environment.
package main

import (
	"fmt"
	"os"
	"runtime"

	"gantry/internal/early"
)

func main() {
	fmt.Println(runtime.GOMAXPROCS(0), "processors")
	if os.Getenv(early.Variable) == early.Value {
		_ = os.Unsetenv(early.Variable)
	}
	for _, text := range append(os.Args[1:], os.Environ()...) {
		fmt.Printf("%q\n", text)
	}
}
