package spawn

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arena is memory outside of Go's heap for what a child reads and writes: its program, what that points to, its stack. A
// child gets a copy of it, and of next to nothing else; see lean.
type arena struct {
	pieces [][]byte
	used   int // of the last piece
}

// pieceSize holds what most plans need; larger things get pieces of their own.
const pieceSize = 128 << 10

// make reserves zeroed memory, aligned for every type.
func (a *arena) make(size int) (unsafe.Pointer, error) {
	const alignment = 16
	size = (size + alignment - 1) &^ (alignment - 1)
	if len(a.pieces) == 0 || a.used+size > len(a.pieces[len(a.pieces)-1]) {
		piece, err := unix.Mmap(-1, 0, max(size, pieceSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, fmt.Errorf("map %d bytes for a new process: %w", size, err)
		}
		a.pieces, a.used = append(a.pieces, piece), 0
	}
	p := unsafe.Pointer(&a.pieces[len(a.pieces)-1][a.used])
	a.used += size
	return p, nil
}

// free gives the memory back.
func (a *arena) free() {
	for _, piece := range a.pieces {
		_ = unix.Munmap(piece)
	}
	a.pieces = nil
}

// room is for a list of n zero values.
func room[T any](a *arena, n int) ([]T, error) {
	if n == 0 {
		return nil, nil
	}
	var zero T
	p, err := a.make(n * int(unsafe.Sizeof(zero)))
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*T)(p), n), nil
}

// inArena copies a list.
func inArena[T any](a *arena, list []T) ([]T, error) {
	out, err := room[T](a, len(list))
	copy(out, list)
	return out, err
}
