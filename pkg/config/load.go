package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
)

// EnvPrefix is what the environment variables of all values start with.
const EnvPrefix = "HANSE_"

// Sources is where values come from.
type Sources struct {
	File string   // path of the YAML file; "" for none
	Env  []string // as os.Environ returns it
	Set  []string // "key=value", of the command line
	// Reserved are environment variables with our prefix that are not values, such as HANSE_CONFIG.
	Reserved []string
}

// Report says what is in force and why.
type Report struct {
	fields  []field
	sources map[string]string
	// Warnings are worth a line in the log and no more.
	Warnings []string
}

// Load fills target, a pointer to a struct that holds the defaults, and validates it. The error names every problem
// found, with its place. The report is valid as far as loading came, unless it is nil.
func Load(target any, src Sources) (*Report, error) {
	root := reflect.ValueOf(target).Elem()
	r := &Report{fields: leaves("", root), sources: make(map[string]string)}
	byKey := make(map[string]field, len(r.fields))
	byEnv := make(map[string]field, len(r.fields))
	for _, f := range r.fields {
		name := envName(EnvPrefix, f.key)
		if other, ok := byEnv[name]; ok {
			return nil, fmt.Errorf("keys %s and %s have the same environment variable", other.key, f.key)
		}
		byKey[f.key], byEnv[name] = f, f
	}
	var errs []error
	if src.File != "" {
		errs = append(errs, r.loadFile(src.File, root)...)
	}
	errs = append(errs, r.loadEnv(src, byEnv)...)
	errs = append(errs, r.loadSettings(src.Set, byKey)...)
	for _, p := range validate("", root) {
		errs = append(errs, r.locate(p))
	}
	return r, errors.Join(errs...)
}

func (r *Report) loadFile(name string, root reflect.Value) []error {
	text, err := os.ReadFile(name)
	if err != nil {
		return []error{err}
	}
	body, err := parse(name, text)
	if err != nil || body == nil {
		return flatten(err)
	}
	d := &decoder{origin: name, set: func(key, source string) { r.sources[key] = source }}
	d.section("", body, root)
	return d.errs
}

func (r *Report) loadEnv(src Sources, byEnv map[string]field) []error {
	var errs []error
	reserved := make(map[string]bool, len(src.Reserved))
	for _, name := range src.Reserved {
		reserved[name] = true
	}
	for _, kv := range src.Env {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, EnvPrefix) || reserved[name] {
			continue
		}
		f, ok := byEnv[name]
		if !ok {
			r.Warnings = append(r.Warnings, "environment variable "+name+" is not a setting")
			continue
		}
		if err := setLeaf(f, text); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
			continue
		}
		r.sources[f.key] = "environment " + name
	}
	return errs
}

func (r *Report) loadSettings(settings []string, byKey map[string]field) []error {
	var errs []error
	for _, kv := range settings {
		key, text, ok := strings.Cut(kv, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("setting %q: want key=value", kv))
			continue
		}
		f, ok := byKey[key]
		if !ok {
			errs = append(errs, fmt.Errorf("setting %s: no such key", key))
			continue
		}
		if err := setLeaf(f, text); err != nil {
			errs = append(errs, fmt.Errorf("setting %s: %w", key, err))
			continue
		}
		r.sources[key] = "command line"
	}
	return errs
}

// setLeaf sets a value from one line of text: a scalar, a list with commas, or YAML in flow style.
func setLeaf(f field, text string) error {
	kind := f.value.Kind()
	if kind != reflect.Slice && kind != reflect.Map {
		return setText(f.value, text)
	}
	if strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{") {
		node, err := parse("value", []byte(text))
		if err != nil {
			return err
		}
		d := &decoder{origin: "value"}
		d.value(f.key, node, f.value)
		return errors.Join(d.errs...)
	}
	if kind == reflect.Map {
		return errors.New("want a mapping in braces")
	}
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	out := reflect.MakeSlice(f.value.Type(), len(items), len(items))
	for i, item := range items {
		if err := setText(out.Index(i), item); err != nil {
			return err
		}
	}
	f.value.Set(out)
	return nil
}

// locate adds to what Validate said where the value came from.
func (r *Report) locate(p problem) error {
	name, _, _ := strings.Cut(p.err.Error(), ":")
	name, _, _ = strings.Cut(name, "[")
	key := join(p.section, name)
	if source, ok := r.sources[key]; ok {
		return fmt.Errorf("%s: %w", source, prefixed(p))
	}
	return prefixed(p)
}

func prefixed(p problem) error {
	if p.section == "" {
		return p.err
	}
	return fmt.Errorf("%s.%w", p.section, p.err)
}
