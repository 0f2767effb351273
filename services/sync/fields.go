package sync

import (
	"bytes"
	"strings"

	"hanse/pkg/matrix/canonjson"
)

// prune leaves of each event what event_fields of the filter names (client-server API, section "Filtering"): paths of
// names with dots between them, dots in names escaped by a backslash. No list leaves everything.
func (f *filter) prune(events [][]byte) ([][]byte, error) {
	if len(f.EventFields) == 0 {
		return events, nil
	}
	paths := make([][]string, len(f.EventFields))
	for i, field := range f.EventFields {
		paths[i] = splitField(field)
	}
	out := make([][]byte, len(events))
	for i, e := range events {
		pruned, err := pruneObject(e, paths)
		if err != nil {
			return nil, err
		}
		out[i] = pruned
	}
	return out, nil
}

// splitField splits at dots that are not escaped.
func splitField(field string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		switch c := field[i]; {
		case c == '\\' && i+1 < len(field):
			i++
			b.WriteByte(field[i])
		case c == '.':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(parts, b.String())
}

func pruneObject(raw []byte, paths [][]string) ([]byte, error) {
	o, err := canonjson.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	kept := make(canonjson.Object, 0, len(o))
	for _, m := range o {
		var below [][]string
		whole := false
		for _, p := range paths {
			if p[0] == m.Key {
				whole = whole || len(p) == 1
				if len(p) > 1 {
					below = append(below, p[1:])
				}
			}
		}
		switch {
		case whole:
			kept = append(kept, m)
		case len(below) > 0 && bytes.HasPrefix(m.Raw, []byte("{")):
			inner, err := pruneObject(m.Raw, below)
			if err != nil {
				return nil, err
			}
			kept = append(kept, canonjson.Member{Key: m.Key, Raw: inner})
		}
	}
	return kept.Bytes(), nil
}
