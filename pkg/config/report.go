package config

import (
	"encoding"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// mask stands for a secret that is set.
const mask = "********"

var marshalerType = reflect.TypeFor[encoding.TextMarshaler]()

// Source returns where the value of a key came from: "default", "hanse.yaml:12", "environment HANSE_X",
// "command line".
func (r *Report) Source(key string) string {
	if s, ok := r.sources[key]; ok {
		return s
	}
	return "default"
}

// Value returns the value of a key for scripts, without secrets: a string as it is, a list of strings with one in each
// line, anything else as YAML. It returns false if there is no such key.
func (r *Report) Value(key string) (string, bool) {
	i := slices.IndexFunc(r.fields, func(f field) bool { return f.key == key })
	if i < 0 {
		return "", false
	}
	f := r.fields[i]
	switch v := f.value.Interface().(type) {
	case string:
		if f.secret == "" {
			return v, true
		}
	case []string:
		if f.secret == "" {
			return strings.Join(v, "\n"), true
		}
	}
	return display(f), true
}

// Undocumented lists the keys that have no sentence.
func (r *Report) Undocumented() []string {
	var keys []string
	for _, f := range r.fields {
		if f.doc == "" {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// Print writes the configuration in force as YAML, each value with its source and each key with its sentence.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	var open []string
	for _, f := range r.fields {
		path := strings.Split(f.key, ".")
		sections, name := path[:len(path)-1], path[len(path)-1]
		shared := 0
		for shared < len(open) && shared < len(sections) && open[shared] == sections[shared] {
			shared++
		}
		for i := shared; i < len(sections); i++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), sections[i])
		}
		open = sections
		indent := strings.Repeat("  ", len(sections))
		if f.doc != "" {
			fmt.Fprintf(&b, "%s# %s\n", indent, f.doc)
		}
		fmt.Fprintf(&b, "%s%s: %s  # %s\n", indent, name, display(f), r.Source(f.key))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// display returns a value in YAML flow style, on one line, without secrets.
func display(f field) string {
	switch kind := f.value.Kind(); {
	case kind == reflect.Slice && f.value.Len() == 0:
		return "[]"
	case kind == reflect.Map && f.value.Len() == 0:
		return "{}"
	case f.secret == "true" && f.value.IsZero():
		return `""`
	case f.secret == "true":
		return mask
	}
	out, err := yaml.MarshalWithOptions(plain(f.value, f.secret), yaml.Flow(true))
	if err != nil {
		return fmt.Sprintf("%q", fmt.Sprint(f.value))
	}
	return strings.TrimSpace(string(out))
}

// plain turns a value into what YAML knows, with our names of keys and without secrets.
func plain(v reflect.Value, secret string) any {
	switch {
	case secret == "true" && !v.IsZero():
		return mask
	case v.Type() == durationType:
		return time.Duration(v.Int()).String()
	case v.Kind() == reflect.String && secret == "dsn":
		return MaskDSN(v.String())
	case v.Type().Implements(marshalerType):
		return v.Interface()
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem(), secret)
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i), secret)
		}
		return out
	case reflect.Map:
		var out yaml.MapSlice
		for it := v.MapRange(); it.Next(); {
			out = append(out, yaml.MapItem{Key: it.Key().Interface(), Value: plain(it.Value(), secret)})
		}
		slices.SortFunc(out, func(a, b yaml.MapItem) int { return strings.Compare(fmt.Sprint(a.Key), fmt.Sprint(b.Key)) })
		return out
	case reflect.Struct:
		var out yaml.MapSlice
		for _, f := range leaves("", v) {
			out = append(out, yaml.MapItem{Key: f.key, Value: plain(f.value, f.secret)})
		}
		return out
	}
	return v.Interface()
}

var passwordPair = regexp.MustCompile(`(?i)\b(password|sslpassword)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)`)

// MaskDSN hides the passwords of a connection string, a URL or key=value pairs, so that it can be shown.
func MaskDSN(dsn string) string {
	if strings.Contains(dsn, "://") {
		u, err := url.Parse(dsn)
		if err != nil {
			return mask
		}
		if _, has := u.User.Password(); has {
			u.User = url.UserPassword(u.User.Username(), mask)
		}
		q := u.Query()
		for _, name := range []string{"password", "sslpassword"} {
			if q.Has(name) {
				q.Set(name, mask)
			}
		}
		u.RawQuery = q.Encode()
		return strings.ReplaceAll(u.String(), url.QueryEscape(mask), mask)
	}
	return passwordPair.ReplaceAllString(dsn, "$1="+mask)
}
