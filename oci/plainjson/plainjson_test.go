package plainjson

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

type inner struct{ Deep, Deeper string }

type kinds struct {
	inner
	Text     string            `json:"text"`
	Yes      bool              `json:"yes,omitempty"`
	Small    int8              `json:"small"`
	Big      uint64            `json:"big"`
	Real     float64           `json:"real"`
	List     []string          `json:"list,omitempty"`
	Map      map[string]*inner `json:"map"`
	Pointer  *int              `json:"pointer"`
	At       time.Time
	Raw      jsontext.Value
	Hidden   string `json:"-"`
	Optional *inner `json:",omitzero"`
}

func TestUnmarshal(t *testing.T) {
	seven := 7
	for text, want := range map[string]kinds{
		`{}`:                                  {},
		` {"text" : "a\u00e9\n" } `:           {Text: "aé\n"},
		`{"TEXT":"x","Yes":true}`:             {Text: "x", Yes: true},
		`{"text":"x","text":"y"}`:             {Text: "y"},
		`{"text":null,"list":null}`:           {},
		`{"small":-128,"big":1e1}`:            {}, // refused, below
		`{"small":-128,"pointer":7}`:          {Small: -128, Pointer: &seven},
		`{"big":18446744073709551615}`:        {Big: 1<<64 - 1},
		`{"real":-1.5e3}`:                     {Real: -1500},
		`{"list":["a","b"],"list":["c"]}`:     {List: []string{"c"}},
		`{"list":[]}`:                         {List: []string{}},
		`{"map":{"a":{"deep":"x"},"b":null}}`: {Map: map[string]*inner{"a": {Deep: "x"}, "b": nil}},
		`{"deep":"x","Deeper":"y"}`:           {inner: inner{"x", "y"}},
		`{"at":"2026-11-24T01:02:03.5Z"}`:     {At: time.Date(2026, 11, 24, 1, 2, 3, 5e8, time.UTC)},
		`{"raw": {"a": [1, null]} }`:          {Raw: jsontext.Value(`{"a": [1, null]}`)},
		`{"Hidden":"x","ignored":1,"-":"y"}`:  {},
		`{"unknown":{"a":[1,{}]},"yes":true}`: {Yes: true},
		"{\"text\":\"\xff\"}":                 {Text: "\uFFFD"},
		`{"optional":{}}`:                     {Optional: &inner{}},
	} {
		var got kinds
		err := Unmarshal([]byte(text), &got)
		if strings.Contains(text, "1e1") {
			if err == nil || !strings.Contains(err.Error(), "/big: got 1e1") {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestUnmarshalFails(t *testing.T) {
	for text, want := range map[string]string{
		``: "EOF", `{`: "EOF", `{"text"}`: "/text", `[]`: "got [], want an object", `{} {}`: "behind the end", `{}x`: "invalid character",
		`{"text":1}`: "/text: got 1, want a string", `{"yes":"x"}`: `/yes: got "x", want true or false`,
		`{"small":128}`: "/small: got 128, want an integer of 8 bits", `{"big":-1}`: "not negative", `{"small":"1"}`: "want a number",
		`{"list":{}}`: "/list: got {}, want a list", `{"list":["a",2]}`: "/list/1: got 2", `{"map":[]}`: "/map: got [], want an object",
		`{"map":{"a/b":{"deep":[1]}}}`: "/map/a~1b/deep: got [1]", `{"at":"yesterday"}`: "/at: got \"yesterday\", want a time",
		`{"text":` + strings.Repeat("1", 100) + `}`: strings.Repeat("1", 40) + "…",
	} {
		var got kinds
		if err := Unmarshal([]byte(text), &got); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestMarshal(t *testing.T) {
	seven := 7
	for _, v := range []kinds{
		{},
		{Text: "a\"\\\n\x00é", Yes: true, Small: -1, Big: 1<<64 - 1, Real: 0.1, List: []string{}, Map: map[string]*inner{"x": nil}, Pointer: &seven},
		{inner: inner{"a", "b"}, List: []string{"a", "b"}, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Raw: jsontext.Value(`[1]`), Optional: &inner{}},
	} {
		text, err := Marshal(&v)
		if err != nil || !json.Valid(text) {
			t.Fatalf("%s, %v", text, err)
		}
		var got kinds
		if v.Raw == nil {
			v.Raw = jsontext.Value("null")
		}
		if err := Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, v)
		}
	}
}

// A field of a type that is not plain would panic when somebody's configuration has it.
func TestSpecIsPlain(t *testing.T) {
	var check func(v reflect.Type, path string, seen map[reflect.Type]bool)
	check = func(v reflect.Type, path string, seen map[reflect.Type]bool) {
		if seen[v] || v == timeType || v == textType {
			return
		}
		seen[v] = true
		for _, special := range []string{"UnmarshalJSON", "UnmarshalText", "UnmarshalJSONFrom"} {
			if _, has := reflect.PointerTo(v).MethodByName(special); has {
				t.Errorf("%s: %s has %s", path, v, special)
			}
		}
		switch v.Kind() {
		case reflect.Pointer:
			check(v.Elem(), path, seen)
		case reflect.Slice:
			if v.Elem().Kind() == reflect.Uint8 {
				t.Errorf("%s: bytes, which JSON has in base 64", path)
			}
			check(v.Elem(), path+"[]", seen)
		case reflect.Map:
			if v.Key().Kind() != reflect.String {
				t.Errorf("%s: a map by %s", path, v.Key())
			}
			check(v.Elem(), path+"{}", seen)
		case reflect.Struct:
			for i := range v.NumField() {
				if f := v.Field(i); f.Anonymous || f.IsExported() {
					check(f.Type, path+"."+f.Name, seen)
				}
			}
		case reflect.Func, reflect.Chan, reflect.Array, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
			t.Errorf("%s: %s is not plain", path, v)
		}
	}
	check(reflect.TypeFor[specs.Spec](), "Spec", map[reflect.Type]bool{})
}

// FuzzSpec compares with encoding/json, as which runc reads configurations.
func FuzzSpec(f *testing.F) {
	f.Add([]byte(`{"ociVersion":"1.3.0","process":{"user":{"uid":1,"umask":18},"args":["a"],"rlimits":[{"type":"x","hard":1}]},"linux":{"resources":{"unified":{"a":"b"}}}}`))
	f.Add([]byte(`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":1,"minor":2,"weight":3}]}},"timeOffsets":{"boottime":{"secs":-1}}}}`))
	examples, _ := filepath.Glob("../testdata/*.json")
	for _, file := range examples {
		if text, err := os.ReadFile(file); err == nil {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got, want specs.Spec
		err := Unmarshal(text, &got)
		if wantErr := json.Unmarshal(text, &want); (err == nil) != (wantErr == nil) && !bytes.Contains(text, []byte("null")) {
			t.Fatalf("%q: %v, encoding/json: %v", text, err, wantErr)
		}
		if err != nil || bytes.Contains(text, []byte("null")) { // which there leaves what an earlier field of the name has set
			return
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %+v, encoding/json: %+v", text, got, want)
		}
		written, err := Marshal(&got)
		if err != nil {
			t.Fatal(err)
		}
		var again specs.Spec
		if err := Unmarshal(written, &again); err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%q becomes %q: %v", text, written, err)
		}
	})
}
