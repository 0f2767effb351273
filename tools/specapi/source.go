package specapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/sync/errgroup"
)

// scheme prefixes the made-up URLs under which files are schema resources, so
// that relative references between files resolve as between files.
const scheme = "spec:///"

// source parses the specification's files once and serves them as resources to
// the schema compiler.
type source struct {
	fsys fs.FS

	mu   sync.Mutex
	docs map[string]any
}

func newSource(fsys fs.FS) *source { return &source{fsys: fsys, docs: map[string]any{}} }

// Load implements jsonschema.URLLoader.
func (s *source) Load(url string) (any, error) {
	name, ok := strings.CutPrefix(url, scheme)
	if !ok {
		return nil, fmt.Errorf("reference leaves the specification: %s", url)
	}
	return s.parse(path.Clean(name))
}

func (s *source) parse(name string) (any, error) {
	s.mu.Lock()
	doc, ok := s.docs[name]
	s.mu.Unlock()
	if ok {
		return doc, nil
	}
	if s.fsys == nil {
		return nil, fmt.Errorf("%s is not in the embedded data", name)
	}
	raw, err := fs.ReadFile(s.fsys, name)
	if err != nil {
		return nil, err
	}
	doc, err = decodeYAML(raw)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	doc = prepare(doc)
	s.mu.Lock()
	s.docs[name] = doc
	s.mu.Unlock()
	return doc, nil
}

// parseAll parses files in parallel.
func (s *source) parseAll(names []string) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range names {
		g.Go(func() error {
			_, err := s.parse(name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("specapi: %w", err)
	}
	return nil
}

// decodeYAML gives the JSON value of a YAML document, numbers as json.Number,
// which is what the schema compiler expects.
func decodeYAML(raw []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	js, err := json.Marshal(stringKeys(v))
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(js))
}

// stringKeys turns maps with keys of other types (a status code written without
// quotes) into JSON objects.
func stringKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = stringKeys(e)
		}
		return v
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[fmt.Sprint(k)] = stringKeys(e)
		}
		return m
	case []any:
		for i, e := range v {
			v[i] = stringKeys(e)
		}
		return v
	default:
		return v
	}
}

// prepare corrects, in place, what the specification's files mean but JSON Schema
// reads differently:
//
//   - oneOf becomes anyOf: GET /rooms/{roomId}/state/{eventType}/{stateKey} says
//     "any object, or a state event", and every state event is any object too;
//   - patternProperties without additionalProperties beside it become exhaustive:
//     under "^!" the file means "keys are room ids", not "other keys are free";
//   - example and examples are dropped, so that their references are not schemas;
//   - the origin of events is not required: the files of make_join, send_join,
//     invite and their like still want it, but no room version's event format has it.
func prepare(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if isSchema(v) {
			delete(v, "example")
			delete(v, "examples")
			if required, ok := v["required"].([]any); ok && slices.Contains(required, any("sender")) {
				v["required"] = slices.DeleteFunc(required, func(name any) bool { return name == "origin" })
			}
			if one, ok := v["oneOf"].([]any); ok {
				delete(v, "oneOf")
				v["anyOf"] = one
			}
			if _, ok := v["patternProperties"].(map[string]any); ok && v["additionalProperties"] == nil {
				v["additionalProperties"] = false
			}
		}
		for k, e := range v {
			v[k] = prepare(e)
		}
		return v
	case []any:
		for i, e := range v {
			v[i] = prepare(e)
		}
		return v
	default:
		return v
	}
}

// isSchema tells a schema object from, say, a map of properties in which one is
// called "example".
func isSchema(m map[string]any) bool {
	for _, k := range []string{"type", "allOf", "anyOf", "oneOf", "properties", "patternProperties", "$ref"} {
		switch m[k].(type) {
		case string:
			return true
		case []any:
			return true
		case map[string]any:
			if k == "properties" || k == "patternProperties" {
				return true
			}
		}
	}
	return false
}
