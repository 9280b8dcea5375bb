package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

const propertyPrefix = "org.systemd.property."

// annotated are the unit's properties that a container's annotations ask for: "org.systemd.property.NAME", with a value
// in GLib's text format ("uint64 5", "'text'", "[1, 2]"). A NAME that ends in Sec is in seconds, and becomes systemd's
// own in microseconds, NAMEUSec. See systemd.directives(7) and GLib's "GVariant Text Format".
func annotated(annotations map[string]string) ([]property, error) {
	var list []property
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ours := strings.CutPrefix(key, propertyPrefix)
		if !ours {
			continue
		}
		p, err := propertyOf(name, annotations[key])
		if err != nil {
			return nil, fmt.Errorf("annotation %s=%s: %w", key, annotations[key], err)
		}
		list = append(list, p)
	}
	return list, nil
}

func propertyOf(name, text string) (property, error) {
	letter := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }
	if len(name) < 3 || strings.ContainsFunc(name, func(r rune) bool { return !letter(r) }) {
		return property{}, errors.New("a property's name is three letters at least, and nothing else")
	}
	in := variantText{rest: text}
	v, err := in.value("")
	if err == nil && strings.TrimSpace(in.rest) != "" {
		err = fmt.Errorf("%q is left", in.rest)
	}
	if err != nil {
		return property{}, err
	}
	if stem, isTime := strings.CutSuffix(name, "Sec"); isTime && stem != "" && stem[len(stem)-1] >= 'a' && stem[len(stem)-1] <= 'z' {
		if v.seconds < 0 || !v.isNumber || v.seconds > math.MaxUint64/1e6 {
			return property{}, errors.New("not a number of seconds")
		}
		return numberProperty(stem+"USec", uint64(v.seconds*1e6)), nil
	}
	return property{name, v.signature, v.put}, nil
}

// variant is a value with its D-Bus type.
type variant struct {
	signature string
	put       func(*dbusBody)
	seconds   float64 // its number, if it is one
	isNumber  bool
}

// variantText is what is yet to be read.
type variantText struct {
	rest  string
	depth int
}

var errVariant = errors.New("no value in GVariant's text format")

// typeNames are the keywords that a value's type is given by.
var typeNames = map[string]string{
	"boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t", "double": "d",
	"string": "s", "objectpath": "o", "signature": "g",
}

// value reads a value of a type; "": of the type that is given, or can be seen.
func (t *variantText) value(signature string) (variant, error) {
	const deep = 32
	if t.depth++; t.depth > deep {
		return variant{}, errVariant
	}
	defer func() { t.depth-- }()
	t.rest = strings.TrimLeft(t.rest, " \t\n")
	if t.rest == "" {
		return variant{}, errVariant
	}
	switch c := t.rest[0]; c {
	case '\'', '"':
		return t.text(signature)
	case '[':
		return t.array(signature)
	case '@':
		kind := t.word()[1:]
		if (signature != "" && signature != kind) || !knownType(kind) {
			return variant{}, errVariant
		}
		return t.value(kind)
	}
	word := t.word()
	if kind, isType := typeNames[word]; isType {
		if signature != "" && signature != kind {
			return variant{}, errVariant
		}
		return t.value(kind)
	}
	if word == "true" || word == "false" {
		if signature != "" && signature != "b" {
			return variant{}, errVariant
		}
		return variant{signature: "b", put: func(b *dbusBody) { b.bool(word == "true") }}, nil
	}
	return numberOf(word, signature)
}

// word takes what stands before a blank, a comma or a bracket.
func (t *variantText) word() string {
	end := strings.IndexAny(t.rest, " \t\n,]")
	if end < 0 {
		end = len(t.rest)
	}
	word := t.rest[:end]
	t.rest = t.rest[end:]
	return word
}

// numberSizes are the bits of the types that numbers have.
var numberSizes = map[string]int{"y": 8, "n": 16, "q": 16, "i": 32, "u": 32, "x": 64, "t": 64}

// numberOf reads a number; without a type it is a 32-bit one, or with a point or an exponent a double.
func numberOf(word, signature string) (variant, error) {
	if signature == "" {
		if signature = "i"; strings.ContainsAny(word, ".eE") && !strings.HasPrefix(word, "0x") {
			signature = "d"
		}
	}
	v := variant{signature: signature, isNumber: true}
	size := numberSizes[signature]
	var bits uint64
	var err error
	switch signature {
	case "d":
		v.seconds, err = strconv.ParseFloat(word, 64)
		bits, size = math.Float64bits(v.seconds), 64
	case "n", "i", "x":
		var n int64
		n, err = strconv.ParseInt(word, 0, size)
		bits, v.seconds = uint64(n), float64(n)
	case "y", "q", "u", "t":
		bits, err = strconv.ParseUint(word, 0, size)
		v.seconds = float64(bits)
	default:
		err = errVariant
	}
	if err != nil {
		return variant{}, fmt.Errorf("%q: %w", word, err)
	}
	v.put = func(b *dbusBody) {
		b.align(size / 8)
		*b = append(*b, binary.LittleEndian.AppendUint64(nil, bits)[:size/8]...)
	}
	return v, nil
}

// text reads a quoted string, with C's simplest escapes.
func (t *variantText) text(signature string) (variant, error) {
	if signature == "" {
		signature = "s"
	}
	quote, out := t.rest[0], []byte(nil)
	for i := 1; i < len(t.rest); i++ {
		c := t.rest[i]
		if c == quote {
			t.rest = t.rest[i+1:]
			s := string(out)
			switch signature {
			case "s", "o":
				return variant{signature: signature, put: func(b *dbusBody) { b.string(s) }}, nil
			case "g":
				if len(s) < 256 {
					return variant{signature: "g", put: func(b *dbusBody) { b.signature(s) }}, nil
				}
			}
			return variant{}, fmt.Errorf("%q is not of type %q", s, signature)
		}
		if c == '\\' && i+1 < len(t.rest) {
			i++
			c = t.rest[i]
			if e := strings.IndexByte("abfnrtv", c); e >= 0 {
				c = "\a\b\f\n\r\t\v"[e]
			}
		}
		out = append(out, c)
	}
	return variant{}, errors.New("a quote is not closed")
}

// array reads values of one type.
func (t *variantText) array(signature string) (variant, error) {
	if signature != "" && signature[0] != 'a' {
		return variant{}, errVariant
	}
	element := strings.TrimPrefix(signature, "a")
	var list []variant
	for t.rest = t.rest[1:]; ; t.rest = t.rest[1:] {
		t.rest = strings.TrimLeft(t.rest, " \t\n")
		if strings.HasPrefix(t.rest, "]") && len(list) == 0 {
			break
		}
		v, err := t.value(element)
		if err != nil {
			return variant{}, err
		}
		if len(list) > 0 && v.signature != list[0].signature {
			return variant{}, errors.New("an array's values are of one type")
		}
		list, element = append(list, v), ""
		if signature != "" || numberSizes[v.signature] > 0 || v.signature == "d" {
			element = v.signature // what follows need not repeat it
		}
		t.rest = strings.TrimLeft(t.rest, " \t\n")
		if strings.HasPrefix(t.rest, "]") {
			break
		}
		if !strings.HasPrefix(t.rest, ",") {
			return variant{}, errors.New("an array is not closed")
		}
	}
	t.rest = t.rest[1:]
	if len(list) > 0 {
		element = list[0].signature
	}
	if !knownType(element) {
		return variant{}, fmt.Errorf("an array of type %q", element)
	}
	return variant{signature: "a" + element, put: func(b *dbusBody) {
		b.array(alignment(element), func() {
			for _, v := range list {
				v.put(b)
			}
		})
	}}, nil
}

// knownType tells a basic type, or arrays of one.
func knownType(signature string) bool {
	signature = strings.TrimLeft(signature, "a")
	return len(signature) == 1 && strings.Contains("bynqiuxtdsog", signature)
}

func alignment(signature string) int {
	switch signature[0] {
	case 'y', 'g':
		return 1
	case 'n', 'q':
		return 2
	case 'x', 't', 'd':
		return 8
	}
	return 4
}
