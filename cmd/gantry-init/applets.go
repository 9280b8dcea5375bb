package main

import (
	"syscall"
	"unsafe"
)

// The names under which the program is in the toolbox image, where it is run most often of all: true, false and sleep.

// fallback is the toolbox image's next larger program, which knows everything else about sleep.
const fallback = "/bin/toolbox-core\x00"

const (
	clockMonotonic = 1
	absolute       = 1         // TIMER_ABSTIME
	longest        = 100000000 // seconds, about three years
)

type timespec struct{ sec, nsec int64 }

var until timespec // on the clock

// applet does what the name asks for, and does not return then.
//
//go:nosplit
func applet(args, env unsafe.Pointer, argc uintptr) {
	name := base(argument(args, 0))
	switch {
	case equal(name, "true\x00"):
		exit(0)
	case equal(name, "false\x00"):
		exit(1)
	case equal(name, "sleep\x00"):
		sleep(args, env, argc)
	}
}

//go:nosplit
func sleep(args, env unsafe.Pointer, argc uintptr) {
	total := timespec{}
	for i := uintptr(1); i < argc; i++ {
		if !total.add(argument(args, i)) {
			argc = 0
		}
	}
	if argc < 2 {
		_, _ = call(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(unsafe.StringData(fallback))), uintptr(args), uintptr(env), 0)
		say("sleep: usage: sleep NUMBER[smhd]...\n")
		exit(1)
	}
	_, _ = call(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&until)), 0, 0)
	until.sec += total.sec
	until.carry(total.nsec)
	for {
		if _, errno := call(syscall.SYS_CLOCK_NANOSLEEP, clockMonotonic, absolute, uintptr(unsafe.Pointer(&until)), 0); errno != syscall.EINTR {
			exit(0)
		}
	}
}

// add adds a plain decimal number, with a unit or without. Any other text is for the larger program.
//
//go:nosplit
func (t *timespec) add(text unsafe.Pointer) bool {
	seconds, nanos, scale, digits := int64(0), int64(0), int64(0), 0
	for ; ; text = unsafe.Add(text, 1) {
		c := at(text)
		switch {
		case c >= '0' && c <= '9' && scale == 0:
			if seconds = 10*seconds + int64(c-'0'); seconds > longest {
				return false
			}
			digits++
			continue
		case c >= '0' && c <= '9':
			nanos += int64(c-'0') * scale
			scale /= 10
			digits++
			if scale == 0 {
				return false
			}
			continue
		case c == '.' && scale == 0:
			scale = 1e8
			continue
		}
		break
	}
	factor := int64(1)
	switch at(text) {
	case 's':
	case 'm':
		factor = 60
	case 'h':
		factor = 3600
	case 'd':
		factor = 86400
	case 0:
		text = unsafe.Add(text, -1)
	default:
		return false
	}
	if digits == 0 || at(unsafe.Add(text, 1)) != 0 || seconds*factor > longest {
		return false
	}
	t.sec += seconds * factor
	nanos *= factor
	t.sec += nanos / 1e9
	t.carry(nanos % 1e9)
	return t.sec <= longest
}

// carry adds less than a second.
//
//go:nosplit
func (t *timespec) carry(nanos int64) {
	if t.nsec += nanos; t.nsec >= 1e9 {
		t.sec++
		t.nsec -= 1e9
	}
}

// base is the last element of a path.
//
//go:nosplit
func base(path unsafe.Pointer) unsafe.Pointer {
	last := path
	for ; at(path) != 0; path = unsafe.Add(path, 1) {
		if at(path) == '/' {
			last = unsafe.Add(path, 1)
		}
	}
	return last
}
