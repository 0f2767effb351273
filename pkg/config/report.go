package config

import (
	"fmt"
	"io"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// mask stands for a secret that is set.
const mask = "********"

// Source returns where the value of a key came from: "default", "hanse.yaml:12", "environment HANSE_X",
// "command line".
func (r *Report) Source(key string) string {
	if s, ok := r.sources[key]; ok {
		return s
	}
	return "default"
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
	if f.secret == "true" {
		if f.value.IsZero() {
			return `""`
		}
		return mask
	}
	v := f.value.Interface()
	if f.secret == "dsn" {
		v = masked(f.value)
	}
	if f.value.Kind() == reflect.Slice && f.value.Len() == 0 {
		return "[]"
	}
	out, err := yaml.MarshalWithOptions(v, yaml.Flow(true), yaml.CustomMarshaler(func(d time.Duration) ([]byte, error) {
		return []byte(d.String()), nil
	}))
	if err != nil {
		return fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return strings.TrimSpace(string(out))
}

func masked(v reflect.Value) any {
	if v.Kind() == reflect.Slice {
		out := make([]string, v.Len())
		for i := range out {
			out[i] = MaskDSN(v.Index(i).String())
		}
		return out
	}
	return MaskDSN(v.String())
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
