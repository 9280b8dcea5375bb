// Package early is where a program that ends soon begins, before Go's runtime does, and makes that cost less. It imports
// nothing, so that it is initialised before packages that need a deep stack.
//
// With -ldflags '-E gantry/internal/early.entry' the runtime finds GOMAXPROCS=1 in its environment, unless there is another
// value. It then has one processor's caches and fewer threads: a tenth less memory to touch, and much less on a machine with
// many processors. main takes the variable from the environment, which other programs inherit. A program that is linked
// without the flag does the same work.
package early

// Variable and Value are what entry puts into the environment. Nobody else writes a one so.
const (
	Variable = "GOMAXPROCS"
	Value    = "01"
)

// The first stack is small, and would grow step by step through memory of its own for each size.
func init() { grow() }

// grow needs much stack, and does not touch it.
func grow()
