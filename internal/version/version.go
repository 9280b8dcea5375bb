// Package version tells which build this is.
package version

// Version is set by the linker (make build); "dev" for a plain go build.
var Version = "dev"
