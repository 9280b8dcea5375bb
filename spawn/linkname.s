// This file is empty: it allows declarations without a body, which go:linkname in fork.go needs.
