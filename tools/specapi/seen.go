package specapi

import (
	"maps"
	"slices"
	"strings"
)

// Operation counts what was validated of one documented operation.
type Operation struct {
	Name   string         // "PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}"
	Count  int            // exchanges seen
	Status map[int]int    // of them by status
	Errors map[string]int // errcodes answered
}

type counter struct {
	count  int
	status map[int]int
	codes  map[string]int
}

func (s *Spec) count(op *operation, status int, errcode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.seen[op.id]
	if c == nil {
		c = &counter{status: map[int]int{}, codes: map[string]int{}}
		s.seen[op.id] = c
	}
	c.count++
	c.status[status]++
	if errcode != "" {
		c.codes[errcode]++
	}
}

// Seen lists the operations that were exercised so far, by name.
func (s *Spec) Seen() []Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Operation, 0, len(s.seen))
	for id, c := range s.seen {
		out = append(out, Operation{Name: id, Count: c.count, Status: maps.Clone(c.status), Errors: maps.Clone(c.codes)})
	}
	slices.SortFunc(out, func(a, b Operation) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Operations lists every documented operation, by name.
func (s *Spec) Operations() []string {
	var out []string
	for _, ops := range s.routes.byMethod {
		for _, op := range ops {
			out = append(out, op.id)
		}
	}
	slices.Sort(out)
	return out
}
