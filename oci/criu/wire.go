package criu

import (
	"encoding/binary"
	"errors"
)

// message is a protocol buffer being written: criu's rpc.proto needs two of its kinds of field.
type message []byte

func (m *message) number(field int, value int64) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3)
	*m = binary.AppendUvarint(*m, uint64(value)) // a negative int32 is ten bytes, as a 64-bit number
}

// flag writes a boolean that is true; false is what criu takes a missing one for.
func (m *message) flag(field int, value bool) {
	if value {
		m.number(field, 1)
	}
}

func (m *message) bytes(field int, value []byte) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3|2)
	*m = binary.AppendUvarint(*m, uint64(len(value)))
	*m = append(*m, value...)
}

// text writes a string that is not empty.
func (m *message) text(field int, value string) {
	if value != "" {
		m.bytes(field, []byte(value))
	}
}

// field is one that was read: a number, or bytes.
type field struct {
	id     int
	number uint64
	bytes  []byte
}

var errMalformed = errors.New("malformed message")

// fields reads a message. The last field of an id counts, as the format demands of single ones.
func fields(text []byte) (map[int]field, error) {
	all := map[int]field{}
	for len(text) > 0 {
		key, n := binary.Uvarint(text)
		if n <= 0 || key>>3 == 0 || key>>3 > 1<<29 {
			return nil, errMalformed
		}
		f := field{id: int(key >> 3)}
		text = text[n:]
		switch key & 7 {
		case 0:
			if f.number, n = binary.Uvarint(text); n <= 0 {
				return nil, errMalformed
			}
			text = text[n:]
		case 1, 5: // fixed numbers: passed over
			size := map[uint64]int{1: 8, 5: 4}[key&7]
			if len(text) < size {
				return nil, errMalformed
			}
			text = text[size:]
		case 2:
			size, n := binary.Uvarint(text)
			if n <= 0 || size > uint64(len(text)-n) {
				return nil, errMalformed
			}
			f.bytes, text = text[n:n+int(size)], text[n+int(size):]
		default:
			return nil, errMalformed
		}
		all[f.id] = f
	}
	return all, nil
}
