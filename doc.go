// Package gantry is the root of the container platform: the programs are in cmd, the libraries in spawn, oci and cgroup.
package gantry
