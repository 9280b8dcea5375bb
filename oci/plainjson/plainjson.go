// Package plainjson reads and writes JSON as encoding/json does, of plain types: structures, pointers, slices, maps by
// strings, strings, numbers and booleans, time.Time and jsontext.Value (which stays text). An interface's value is left to a
// library.
//
// A library prepares tables of every type when it first meets it. That is right for a server, and most of the work of a
// program that reads one configuration and ends. This package has no tables: it looks fields up as they come, which is in
// their order. What is JSON and what is not, jsontext tells.
package plainjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

var (
	timeType = reflect.TypeFor[time.Time]()
	textType = reflect.TypeFor[jsontext.Value]()
)

// Unmarshal reads one JSON value into what to points to. Names are found in any case, may be given twice (the later one
// counts, objects are merged), unknown ones are passed over; strings may be bad UTF-8; null is the zero value. Errors name
// the place as a JSON pointer (RFC 6901): "/process/user/uid".
func Unmarshal(text []byte, to any) error {
	d := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err := read(d, reflect.ValueOf(to).Elem()); err != nil {
		return err
	}
	if _, err := d.ReadToken(); err == nil {
		return errors.New("there is something behind the end of the JSON value")
	} else if err != io.EOF {
		return err
	}
	return nil
}

func read(d *jsontext.Decoder, v reflect.Value) error {
	kind := d.PeekKind()
	if kind == 'n' && v.Type() != textType {
		v.SetZero()
		_, err := d.ReadToken()
		return err
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return read(d, v.Elem())
	case reflect.Struct:
		if v.Type() == timeType {
			return readTime(d, v)
		}
		return readStruct(d, v)
	case reflect.Map:
		return readMap(d, v)
	case reflect.Slice:
		if v.Type() == textType {
			text, err := d.ReadValue()
			v.SetBytes(text.Clone())
			return err
		}
		return readSlice(d, v)
	case reflect.Interface: // what some other system is told
		text, err := d.ReadValue()
		if err != nil {
			return err
		}
		return json.Unmarshal(text, v.Addr().Interface(), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	}
	return readScalar(d, v)
}

// open reads the token that begins an object or a list.
func open(d *jsontext.Decoder, want jsontext.Kind, what string) error {
	if d.PeekKind() != want {
		return unexpected(d, what)
	}
	_, err := d.ReadToken()
	return err
}

// unexpected is the error of a value of another kind than wanted.
func unexpected(d *jsontext.Decoder, want string) error {
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: got %s, want %s", d.StackPointer(), shorten(value), want)
}

func shorten(value []byte) string {
	const most = 40
	if len(value) > most {
		return string(value[:most]) + "…"
	}
	return string(value)
}

func readStruct(d *jsontext.Decoder, v reflect.Value) error {
	if err := open(d, '{', "an object"); err != nil {
		return err
	}
	for next := 0; d.PeekKind() != '}'; {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		field := find(v, name.String(), &next)
		if field.IsValid() {
			err = read(d, field)
		} else {
			err = d.SkipValue()
		}
		if err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// find is the field of a name: the search begins with the field behind the last one, where it mostly ends. An exact match
// comes before one in another case.
func find(v reflect.Value, name string, next *int) reflect.Value {
	if field := search(v, name, next, func(a, b string) bool { return a == b }); field.IsValid() {
		return field
	}
	return search(v, name, next, strings.EqualFold)
}

func search(v reflect.Value, name string, next *int, same func(a, b string) bool) reflect.Value {
	t := v.Type()
	n := t.NumField()
	for i := range n {
		at := (*next + i) % n
		field := t.Field(at)
		if field.Anonymous {
			if inner := search(v.Field(at), name, new(int), same); inner.IsValid() {
				*next = at
				return inner
			}
			continue
		}
		if its, _ := nameOf(&field); its != "" && same(its, name) {
			*next = at + 1
			return v.Field(at)
		}
	}
	return reflect.Value{}
}

// nameOf is a field's name in JSON, "" if it has none; omit tells that it is left out when it is empty.
func nameOf(field *reflect.StructField) (name string, omit bool) {
	if !field.IsExported() {
		return "", false
	}
	tag := field.Tag.Get("json")
	name, options, _ := strings.Cut(tag, ",")
	switch {
	case tag == "-":
		return "", false
	case name == "":
		name = field.Name
	}
	return name, strings.Contains(options, "omit")
}

func readMap(d *jsontext.Decoder, v reflect.Value) error {
	if err := open(d, '{', "an object"); err != nil {
		return err
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	value := reflect.New(v.Type().Elem()).Elem()
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		key := reflect.ValueOf(name.String()).Convert(v.Type().Key())
		value.SetZero()
		if err := read(d, value); err != nil {
			return err
		}
		v.SetMapIndex(key, value)
	}
	_, err := d.ReadToken()
	return err
}

func readSlice(d *jsontext.Decoder, v reflect.Value) error {
	if err := open(d, '[', "a list"); err != nil {
		return err
	}
	if v.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	}
	v.SetLen(0)
	for d.PeekKind() != ']' {
		n := v.Len()
		v.Grow(1)
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		if err := read(d, v.Index(n)); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

func readTime(d *jsontext.Decoder, v reflect.Value) error {
	var text string
	if err := read(d, reflect.ValueOf(&text).Elem()); err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return fmt.Errorf("%s: got %q, want a time as of RFC 3339", d.StackPointer(), text)
	}
	v.Set(reflect.ValueOf(at))
	return nil
}

func readScalar(d *jsontext.Decoder, v reflect.Value) error {
	kind := d.PeekKind()
	switch v.Kind() {
	case reflect.String:
		if kind != '"' {
			return unexpected(d, "a string")
		}
		token, err := d.ReadToken()
		if err != nil {
			return err
		}
		v.SetString(token.String())
		return nil
	case reflect.Bool:
		if kind != 't' && kind != 'f' {
			return unexpected(d, "true or false")
		}
		token, err := d.ReadToken()
		if err != nil {
			return err
		}
		v.SetBool(token.Bool())
		return nil
	}
	if kind != '0' {
		return unexpected(d, "a number")
	}
	return readNumber(d, v)
}

func readNumber(d *jsontext.Decoder, v reflect.Value) error {
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	text, bits := string(value), v.Type().Bits()
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			return fmt.Errorf("%s: got %s, want an integer of %d bits", d.StackPointer(), text, bits)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		n, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			return fmt.Errorf("%s: got %s, want an integer of %d bits that is not negative", d.StackPointer(), text, bits)
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		n, err := strconv.ParseFloat(text, bits)
		if err != nil {
			return fmt.Errorf("%s: got %s, want a number of %d bits", d.StackPointer(), text, bits)
		}
		v.SetFloat(n)
	default:
		panic("plainjson: no plain type: " + v.Type().String())
	}
	return nil
}

// Marshal writes what Unmarshal reads into an equal value: fields with omitempty or omitzero are left out only where they
// are nil, false, 0 or "", so that an empty list stays one.
func Marshal(value any) ([]byte, error) { return write(nil, reflect.ValueOf(value)) }

func write(to []byte, v reflect.Value) (_ []byte, err error) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return append(to, "null"...), nil
		}
		return write(to, v.Elem())
	case reflect.Struct:
		if v.Type() == timeType {
			return append(v.Interface().(time.Time).AppendFormat(append(to, '"'), time.RFC3339Nano), '"'), nil
		}
		if to, err = writeFields(append(to, '{'), v); err != nil {
			return nil, err
		}
		return append(bytes.TrimSuffix(to, []byte{','}), '}'), nil
	case reflect.Map:
		return writeMap(to, v)
	case reflect.Slice:
		if v.IsNil() {
			return append(to, "null"...), nil
		}
		if v.Type() == textType {
			return append(to, v.Bytes()...), nil
		}
		to = append(to, '[')
		for i := range v.Len() {
			if to, err = write(to, v.Index(i)); err != nil {
				return nil, err
			}
			to = append(to, ',')
		}
		return append(bytes.TrimSuffix(to, []byte{','}), ']'), nil
	case reflect.Interface:
		text, err := json.Marshal(v.Interface(), jsontext.AllowInvalidUTF8(true))
		return append(to, text...), err
	case reflect.String:
		return quote(to, v.String())
	case reflect.Bool:
		return strconv.AppendBool(to, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(to, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(to, v.Uint(), 10), nil
	case reflect.Float32, reflect.Float64:
		return strconv.AppendFloat(to, v.Float(), 'g', -1, v.Type().Bits()), nil
	}
	panic("plainjson: no plain type: " + v.Type().String())
}

// quote writes a string; what is no UTF-8 in it is replaced, as Unmarshal does.
func quote(to []byte, s string) ([]byte, error) {
	return jsontext.AppendQuote(to, strings.ToValidUTF8(s, "\uFFFD"))
}

// writeFields writes the fields of an object, each with a comma behind it.
func writeFields(to []byte, v reflect.Value) (_ []byte, err error) {
	t := v.Type()
	for i := range t.NumField() {
		field, value := t.Field(i), v.Field(i)
		if field.Anonymous {
			if to, err = writeFields(to, value); err != nil {
				return nil, err
			}
			continue
		}
		name, omit := nameOf(&field)
		if name == "" || omit && value.IsZero() {
			continue
		}
		if to, err = quote(to, name); err != nil {
			return nil, err
		}
		if to, err = write(append(to, ':'), value); err != nil {
			return nil, err
		}
		to = append(to, ',')
	}
	return to, nil
}

func writeMap(to []byte, v reflect.Value) (_ []byte, err error) {
	if v.IsNil() {
		return append(to, "null"...), nil
	}
	to = append(to, '{')
	for entries := v.MapRange(); entries.Next(); {
		if to, err = quote(to, entries.Key().String()); err != nil {
			return nil, err
		}
		if to, err = write(append(to, ':'), entries.Value()); err != nil {
			return nil, err
		}
		to = append(to, ',')
	}
	return append(bytes.TrimSuffix(to, []byte{','}), '}'), nil
}
