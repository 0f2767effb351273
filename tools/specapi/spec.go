package specapi

import (
	"fmt"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Spec is the loaded specification.
type Spec struct {
	src    *source
	routes routes

	compileMu sync.Mutex // the compiler is not safe for concurrent use
	compiler  *jsonschema.Compiler

	mu       sync.Mutex
	compiled map[string]*lazySchema
	seen     map[string]*counter
}

// lazySchema is a schema compiled at its first use.
type lazySchema struct {
	once   sync.Once
	schema *jsonschema.Schema
	err    error
}

func (s *Spec) initCompiler() {
	s.compiler = jsonschema.NewCompiler()
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.UseLoader(s.src)
	s.compiler.AssertFormat()
	for _, f := range formats {
		s.compiler.RegisterFormat(f)
	}
}

// schema returns the compiled schema at a location such as
// spec:///api/client-server/sync.yaml#/paths/....
func (s *Spec) schema(location string) (*jsonschema.Schema, error) {
	s.mu.Lock()
	l, ok := s.compiled[location]
	if !ok {
		l = &lazySchema{}
		s.compiled[location] = l
	}
	s.mu.Unlock()
	l.once.Do(func() {
		s.compileMu.Lock()
		defer s.compileMu.Unlock()
		l.schema, l.err = s.compiler.Compile(location)
		if l.err != nil {
			l.err = fmt.Errorf("specapi: compile %s: %w", location, l.err)
		}
	})
	return l.schema, l.err
}

// CompileAll compiles every schema of every operation: a check of the data and
// of this package against a version of the specification.
func (s *Spec) CompileAll() error {
	for _, ops := range s.routes.byMethod {
		for _, op := range ops {
			bodies := []*body{op.request}
			for _, b := range op.status {
				bodies = append(bodies, b)
			}
			for _, b := range bodies {
				if b == nil || b.schema == "" {
					continue
				}
				if _, err := s.schema(b.schema); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
