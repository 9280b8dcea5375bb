// Package engine is the domain: containers from create to remove, exec, logs, events, volumes. It knows no HTTP and no
// gRPC; the API packages above it translate.
//
// What create was told is stored once, as it came (Config), and compiled on every start into a runtime-spec bundle:
// spec.go joins namespaces, mounts.go the file systems, resources.go the limits, security.go capabilities and seccomp.
package engine
