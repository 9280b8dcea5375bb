// Package cli is the gantry command line: docker's verbs and flags over the Docker Engine API.
//
// A command is built only when it is asked for (see verbs.go), the API version is fixed until a server objects, and
// run needs three round trips: create, attach beside wait, start. Exit codes are docker's: the container's own, or
// 125 when the daemon or the command line failed, 126 when the command could not be invoked, 127 when it was not found.
package cli
