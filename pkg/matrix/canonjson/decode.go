package canonjson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// Decode reads what another server sent, apart from events, into v (MSC4458, "Handling incoming JSON in the server-server
// API"). It reads as all other readers of this package do: text that is not UTF-8 and lone surrogates are errors, which
// encoding/json would replace; of duplicate members the last one counts; names match to the letter. Numbers that the
// sender has no business to send are errors where v wants an integer. What v keeps as raw JSON was checked for its form.
func Decode(b []byte, v any) error {
	if err := Check(b, maxEnvelope); err != nil {
		return err
	}
	return json.Unmarshal(exact(b, reflect.TypeOf(v)), v)
}

// Check says why b is not one JSON value in UTF-8, without lone surrogates, nested at most that deep. It takes what
// CanonicalLoose takes, and writes nothing.
func Check(b []byte, depth int) error {
	w := writer{in: b, depth: depth, check: true}
	w.space()
	if err := w.value(0); err != nil {
		return fmt.Errorf("at byte %d: %w", w.at, err)
	}
	w.space()
	if w.at != len(b) {
		return fmt.Errorf("at byte %d: %w", w.at, ErrSyntax)
	}
	return nil
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// exact leaves out what encoding/json would read though it is not there: members whose names differ from those of a struct
// in case only, and all but the last of duplicates, which it would merge. It returns b itself if there is nothing of that
// kind.
func exact(b []byte, t reflect.Type) []byte {
	if !hasStruct(t) {
		return b
	}
	switch t.Kind() {
	case reflect.Pointer:
		return exact(b, t.Elem())
	case reflect.Slice, reflect.Array:
		return exactList(b, t.Elem())
	case reflect.Map:
		return exactObject(b, func(string) (reflect.Type, bool) { return t.Elem(), true }, nil)
	}
	fields := fieldsOf(t)
	return exactObject(b, func(name string) (reflect.Type, bool) { ft, ok := fields[name]; return ft, ok }, fields)
}

func exactList(b []byte, t reflect.Type) []byte {
	list, err := Elements(b)
	if err != nil {
		return b // null, or of a wrong type, which encoding/json finds
	}
	changed := false
	for i, e := range list {
		list[i] = exact(e, t)
		changed = changed || !same(list[i], e)
	}
	if !changed {
		return b
	}
	out := []byte{'['}
	for i, e := range list {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, e...)
	}
	return append(out, ']')
}

// exactObject keeps the members that have a type. alike are names that encoding/json takes others for.
func exactObject(b []byte, typeOf func(name string) (reflect.Type, bool), alike map[string]reflect.Type) []byte {
	o, err := ParseObject(b)
	if err != nil {
		return b
	}
	at := make(map[string]int, len(o))
	out, changed := make(Object, 0, len(o)), false
	for _, m := range o {
		t, ok := typeOf(m.Key)
		if !ok {
			changed = changed || folds(m.Key, alike)
			continue
		}
		raw := exact(m.Raw, t)
		changed = changed || !same(raw, m.Raw)
		if i, twice := at[m.Key]; twice {
			out[i].Raw, changed = raw, true
			continue
		}
		at[m.Key] = len(out)
		out = append(out, Member{m.Key, raw})
	}
	if !changed {
		return b
	}
	return out.Bytes()
}

func folds(name string, to map[string]reflect.Type) bool {
	for n := range to {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// same says whether two slices are the same piece of memory.
func same(a, b []byte) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

var structs, fieldTypes sync.Map // by reflect.Type

// hasStruct says whether encoding/json matches names of members when it reads into a type.
func hasStruct(t reflect.Type) bool {
	if known, ok := structs.Load(t); ok {
		return known.(bool)
	}
	has := false
	switch {
	case t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler):
	case t.Kind() == reflect.Struct:
		has = true
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice, t.Kind() == reflect.Array, t.Kind() == reflect.Map:
		has = hasStruct(t.Elem())
	}
	structs.Store(t, has)
	return has
}

// fieldsOf returns the fields of a struct by their names in JSON.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if known, ok := fieldTypes.Load(t); ok {
		return known.(map[string]reflect.Type)
	}
	fields := make(map[string]reflect.Type, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := f.Type
		if embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "" && embedded.Kind() == reflect.Struct:
			for n, ft := range fieldsOf(embedded) {
				if _, ok := fields[n]; !ok {
					fields[n] = ft
				}
			}
		case name == "":
			fields[f.Name] = f.Type
		default:
			fields[name] = f.Type
		}
	}
	fieldTypes.Store(t, fields)
	return fields
}
