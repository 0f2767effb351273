package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// field is a leaf: a value that is set as a whole.
type field struct {
	key    string
	doc    string
	secret string
	value  reflect.Value
}

// leaves lists the leaf fields of a struct in the order in which they are declared.
func leaves(prefix string, v reflect.Value) []field {
	var out []field
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		name, inline, ok := keyOf(sf)
		if !ok {
			continue
		}
		key := join(prefix, name)
		if inline {
			key = prefix
		}
		if isSection(sf.Type) {
			out = append(out, leaves(key, v.Field(i))...)
			continue
		}
		out = append(out, field{key: key, doc: sf.Tag.Get("doc"), secret: sf.Tag.Get("secret"), value: v.Field(i)})
	}
	return out
}

// keyOf returns the key of a struct field, and whether its own fields stand in place of it.
func keyOf(sf reflect.StructField) (name string, inline, ok bool) {
	if !sf.IsExported() {
		return "", false, false
	}
	tag, opts, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
	if tag == "-" {
		return "", false, false
	}
	if opts == "inline" || (sf.Anonymous && tag == "") {
		return "", true, true
	}
	if tag == "" {
		tag = snake(sf.Name)
	}
	return tag, false, true
}

// isSection reports whether a type is a struct of further keys, not a value written as text.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType)
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType = reflect.TypeFor[time.Duration]()
)

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// snake turns a Go name into a key: MaxConns is max_conns, TLSCert is tls_cert.
func snake(name string) string {
	var b strings.Builder
	rs := []rune(name)
	for i, r := range rs {
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(rs[i-1]) || (i+1 < len(rs) && unicode.IsLower(rs[i+1]))) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// envName returns the environment variable of a key.
func envName(prefix, key string) string {
	return prefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// validate asks the struct and all in it.
func validate(prefix string, v reflect.Value) []problem {
	var out []problem
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		name, inline, ok := keyOf(sf)
		if !ok || !isSection(sf.Type) {
			continue
		}
		key := join(prefix, name)
		if inline {
			key = prefix
		}
		out = append(out, validate(key, v.Field(i))...)
	}
	if val, ok := v.Addr().Interface().(interface{ Validate() error }); ok {
		for _, err := range flatten(val.Validate()) {
			out = append(out, problem{prefix, err})
		}
	}
	return out
}

// problem is what a section's Validate said.
type problem struct {
	section string
	err     error
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range many.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration (as 30s, 5m, 12h)"
	case reflect.PointerTo(t).Implements(textType):
		return "a " + t.Name()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a mapping"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Pointer:
		return typeName(t.Elem())
	default:
		return fmt.Sprintf("a whole number (%s)", t.Kind())
	}
}
