package mxclient

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ScannedRoom is what ScanSync takes out of a joined room.
type ScannedRoom struct {
	Room      string
	Limited   bool
	PrevBatch string
	Events    []ScannedEvent // of the timeline
}

// ScannedEvent is what ScanSync takes out of an event.
type ScannedEvent struct {
	ID, Type, Sender string
	Body             string // content.body
}

// ScanSync reads a sync answer without building it: the load generator shares
// the machine with the server that it measures. onRoom is called for each joined
// room that has a timeline; its argument is reused by the next call.
func ScanSync(raw []byte, onRoom func(*ScannedRoom) error) (nextBatch string, err error) {
	s := scanner{b: raw}
	var room ScannedRoom
	err = s.object(func(key string) error {
		switch key {
		case "next_batch":
			return s.string(&nextBatch)
		case "rooms":
			return s.object(func(key string) error {
				if key != "join" {
					return s.skip(0)
				}
				return s.object(func(id string) error {
					room = ScannedRoom{Room: id, Events: room.Events[:0]}
					found, err := s.room(&room)
					if err != nil || !found {
						return err
					}
					return onRoom(&room)
				})
			})
		default:
			return s.skip(0)
		}
	})
	if err != nil {
		return "", fmt.Errorf("scan sync: %w", err)
	}
	if s.ws(); s.i != len(s.b) {
		return "", fmt.Errorf("scan sync: more after the end, at byte %d", s.i)
	}
	if nextBatch == "" {
		return "", errors.New("scan sync: no next_batch")
	}
	return nextBatch, nil
}

func (s *scanner) room(r *ScannedRoom) (found bool, err error) {
	err = s.object(func(key string) error {
		if key != "timeline" {
			return s.skip(0)
		}
		found = true
		return s.object(func(key string) error {
			switch key {
			case "limited":
				return s.bool(&r.Limited)
			case "prev_batch":
				return s.string(&r.PrevBatch)
			case "events":
				r.Events = r.Events[:0]
				return s.array(func() error {
					var e ScannedEvent
					if err := s.event(&e); err != nil {
						return err
					}
					r.Events = append(r.Events, e)
					return nil
				})
			default:
				return s.skip(0)
			}
		})
	})
	return found, err
}

func (s *scanner) event(e *ScannedEvent) error {
	return s.object(func(key string) error {
		switch key {
		case "event_id":
			return s.string(&e.ID)
		case "type":
			return s.string(&e.Type)
		case "sender":
			return s.string(&e.Sender)
		case "content":
			return s.object(func(key string) error {
				if key == "body" && s.peek() == '"' {
					return s.string(&e.Body)
				}
				return s.skip(0)
			})
		default:
			return s.skip(0)
		}
	})
}

// scanner walks JSON. It trusts its input to be JSON as far as it does not look.
type scanner struct {
	b []byte
	i int
}

const maxDepth = 512

func (s *scanner) fail(what string) error {
	return fmt.Errorf("%s expected at byte %d", what, s.i)
}

func (s *scanner) ws() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\n', '\t', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek returns the next byte that is not white space, or 0 at the end.
func (s *scanner) peek() byte {
	s.ws()
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

// null passes a null, which some servers write for an empty list.
func (s *scanner) null() bool {
	if s.peek() == 'n' && bytes.HasPrefix(s.b[s.i:], []byte("null")) {
		s.i += 4
		return true
	}
	return false
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.i++
	return true
}

// object calls fn, which must consume the value, for each key.
func (s *scanner) object(fn func(key string) error) error {
	if s.null() {
		return nil
	}
	if !s.take('{') {
		return s.fail("object")
	}
	if s.take('}') {
		return nil
	}
	for {
		var key string
		if s.peek() != '"' {
			return s.fail("key")
		}
		if err := s.string(&key); err != nil {
			return err
		}
		if !s.take(':') {
			return s.fail("colon")
		}
		if err := fn(key); err != nil {
			return err
		}
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return s.fail("comma")
		}
	}
}

func (s *scanner) array(fn func() error) error {
	if s.null() {
		return nil
	}
	if !s.take('[') {
		return s.fail("array")
	}
	if s.take(']') {
		return nil
	}
	for {
		if err := fn(); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return s.fail("comma")
		}
	}
}

// span passes a string and returns it with its quotes.
func (s *scanner) span() (lit []byte, plain bool, err error) {
	if s.peek() != '"' {
		return nil, false, s.fail("string")
	}
	start := s.i
	// Most strings have no escape: find the quote, then look for a backslash.
	j := bytes.IndexByte(s.b[start+1:], '"')
	if j < 0 {
		return nil, false, s.fail("end of string")
	}
	lit = s.b[start : start+j+2]
	if bytes.IndexByte(lit, '\\') < 0 {
		s.i = start + len(lit)
		return lit, true, nil
	}
	for k := start + 1; k < len(s.b); k++ {
		switch s.b[k] {
		case '\\':
			k++
		case '"':
			s.i = k + 1
			return s.b[start:s.i], false, nil
		}
	}
	return nil, false, s.fail("end of string")
}

func (s *scanner) string(out *string) error {
	if s.null() {
		return nil
	}
	lit, plain, err := s.span()
	if err != nil {
		return err
	}
	if plain {
		*out = string(lit[1 : len(lit)-1])
		return nil
	}
	return json.Unmarshal(lit, out)
}

func (s *scanner) bool(out *bool) error {
	s.ws()
	switch rest := s.b[s.i:]; {
	case bytes.HasPrefix(rest, []byte("true")):
		*out, s.i = true, s.i+4
	case bytes.HasPrefix(rest, []byte("false")):
		*out, s.i = false, s.i+5
	default:
		return s.fail("true or false")
	}
	return nil
}

// skip passes a value of any kind.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return errors.New("too deep")
	}
	switch c := s.peek(); c {
	case '"':
		_, _, err := s.span()
		return err
	case '{':
		s.i++
		if s.take('}') {
			return nil
		}
		for {
			if _, _, err := s.span(); err != nil {
				return err
			}
			if !s.take(':') {
				return s.fail("colon")
			}
			if err := s.skip(depth + 1); err != nil {
				return err
			}
			if s.take('}') {
				return nil
			}
			if !s.take(',') {
				return s.fail("comma")
			}
		}
	case '[':
		return s.array(func() error { return s.skip(depth + 1) })
	default:
		start := s.i
		for s.i < len(s.b) && bytes.IndexByte([]byte("+-.0123456789eEtrufalsn"), s.b[s.i]) >= 0 {
			s.i++
		}
		if s.i == start {
			return s.fail("value")
		}
		return nil
	}
}
