package canonjson

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// Member is a member of an object: its name and the raw bytes of its value.
type Member struct {
	Key string
	Raw []byte
}

// Object is an object taken apart, its members in the order in which they stood. The values are slices of the input.
type Object []Member

// ParseObject takes apart an object that is known to be canonical, or at least valid, JSON.
func ParseObject(b []byte) (Object, error) {
	s := skipper{in: b}
	s.space()
	if s.at == len(b) || b[s.at] != '{' {
		return nil, ErrSyntax
	}
	s.at++
	obj := make(Object, 0, 16)
	s.space()
	if s.at < len(b) && b[s.at] == '}' {
		return obj, nil
	}
	for {
		s.space()
		start := s.at
		if !s.str() {
			return nil, ErrSyntax
		}
		key, err := unquote(b[start:s.at])
		if err != nil {
			return nil, err
		}
		s.space()
		if s.at == len(b) || b[s.at] != ':' {
			return nil, ErrSyntax
		}
		s.at++
		s.space()
		start = s.at
		if !s.value() {
			return nil, ErrSyntax
		}
		obj = append(obj, Member{key, b[start:s.at:s.at]})
		s.space()
		if s.at == len(b) {
			return nil, ErrSyntax
		}
		s.at++
		switch b[s.at-1] {
		case ',':
		case '}':
			return obj, nil
		default:
			return nil, ErrSyntax
		}
	}
}

// Elements returns the raw elements of an array that is known to be valid JSON. They are slices of the input.
func Elements(b []byte) ([][]byte, error) {
	s := skipper{in: b}
	s.space()
	if s.at == len(b) || b[s.at] != '[' {
		return nil, ErrSyntax
	}
	s.at++
	s.space()
	if s.at < len(b) && b[s.at] == ']' {
		return nil, nil
	}
	list := make([][]byte, 0, 4)
	for {
		s.space()
		start := s.at
		if !s.value() {
			return nil, ErrSyntax
		}
		list = append(list, b[start:s.at:s.at])
		s.space()
		if s.at == len(b) {
			return nil, ErrSyntax
		}
		s.at++
		switch b[s.at-1] {
		case ',':
		case ']':
			return list, nil
		default:
			return nil, ErrSyntax
		}
	}
}

// Find returns the raw value of a member of an object that is known to be valid JSON, without taking the whole object
// apart. Of duplicate members it is the first.
func Find(b []byte, key string) ([]byte, bool) {
	s := skipper{in: b}
	s.space()
	if s.at == len(b) || b[s.at] != '{' {
		return nil, false
	}
	s.at++
	for {
		s.space()
		start := s.at
		if !s.str() {
			return nil, false
		}
		name := b[start:s.at]
		s.space()
		if s.at == len(b) || b[s.at] != ':' {
			return nil, false
		}
		s.at++
		s.space()
		start = s.at
		if !s.value() {
			return nil, false
		}
		if is(name, key) {
			return b[start:s.at:s.at], true
		}
		s.space()
		if s.at == len(b) || b[s.at] != ',' {
			return nil, false
		}
		s.at++
	}
}

// Each calls each with the quoted names and the raw values of the members of an object that is known to be canonical JSON,
// in their order, and says whether it is one. What it hands out are slices of the input.
func Each(b []byte, each func(name, value []byte)) bool {
	s := skipper{in: b}
	if len(b) < 2 || b[0] != '{' {
		return false
	}
	if s.at = 1; b[1] == '}' {
		return len(b) == 2
	}
	for {
		start := s.at
		if !s.str() || s.at == len(b) || b[s.at] != ':' {
			return false
		}
		name := b[start:s.at]
		s.at++
		start = s.at
		if !s.value() || s.at == len(b) {
			return false
		}
		each(name, b[start:s.at:s.at])
		s.at++
		switch b[s.at-1] {
		case ',':
		case '}':
			return s.at == len(b)
		default:
			return false
		}
	}
}

// is says whether a quoted string has this text.
func is(quoted []byte, text string) bool {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1:len(quoted)-1]) == text
	}
	s, err := unquote(quoted)
	return err == nil && s == text
}

// Get returns the raw value of a member.
func (o Object) Get(key string) ([]byte, bool) {
	for i := range o {
		if o[i].Key == key {
			return o[i].Raw, true
		}
	}
	return nil, false
}

// String returns the value of a member that is a string.
func (o Object) String(key string) (string, bool) {
	raw, ok := o.Get(key)
	if !ok {
		return "", false
	}
	return String(raw)
}

// Int returns the value of a member that is an integer.
func (o Object) Int(key string) (int64, bool) {
	raw, ok := o.Get(key)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, err == nil
}

// String returns the text of a raw value that is a string.
func String(raw []byte) (string, bool) {
	s, err := unquote(raw)
	return s, err == nil
}

// Without returns the object without some members.
func (o Object) Without(keys ...string) Object {
	out := make(Object, 0, len(o))
	for _, m := range o {
		if !slices.Contains(keys, m.Key) {
			out = append(out, m)
		}
	}
	return out
}

// Only returns the object with no other than these members.
func (o Object) Only(keys ...string) Object {
	out := make(Object, 0, len(o))
	for _, m := range o {
		if slices.Contains(keys, m.Key) {
			out = append(out, m)
		}
	}
	return out
}

// With returns the object with a member in its place in the order, instead of one of that name.
func (o Object) With(key string, raw []byte) Object {
	at, found := slices.BinarySearchFunc(o, key, func(m Member, key string) int { return strings.Compare(m.Key, key) })
	if found {
		out := slices.Clone(o)
		out[at].Raw = raw
		return out
	}
	return slices.Insert(slices.Clone(o), at, Member{key, raw})
}

// Append appends the object in its order; the result is canonical if the order and the values are.
func (o Object) Append(b []byte) []byte {
	b = append(b, '{')
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendString(b, m.Key)
		b = append(b, ':')
		b = append(b, m.Raw...)
	}
	return append(b, '}')
}

// Bytes returns the object as Append writes it.
func (o Object) Bytes() []byte {
	n := 2
	for _, m := range o {
		n += len(m.Key) + len(m.Raw) + 4
	}
	return o.Append(make([]byte, 0, n))
}

// skipper finds the ends of values in valid JSON.
type skipper struct {
	in []byte
	at int
}

func (s *skipper) space() {
	for s.at < len(s.in) && (s.in[s.at] == ' ' || s.in[s.at] == '\t' || s.in[s.at] == '\n' || s.in[s.at] == '\r') {
		s.at++
	}
}

func (s *skipper) str() bool {
	if s.at == len(s.in) || s.in[s.at] != '"' {
		return false
	}
	s.at++
	for start := s.at; ; {
		n := bytes.IndexByte(s.in[s.at:], '"')
		if n < 0 {
			s.at = len(s.in)
			return false
		}
		quote := s.at + n
		slash := quote
		for slash > start && s.in[slash-1] == '\\' {
			slash--
		}
		s.at = quote + 1
		if (quote-slash)%2 == 0 {
			return true
		}
		start = s.at
	}
}

func (s *skipper) value() bool {
	if s.at == len(s.in) {
		return false
	}
	switch s.in[s.at] {
	case '"':
		return s.str()
	case '{', '[':
		return s.nested()
	}
	start := s.at
	for s.at < len(s.in) {
		switch s.in[s.at] {
		case ',', '}', ']', ' ', '\t', '\n', '\r', ':', '"', '{', '[':
			return s.at > start
		}
		s.at++
	}
	return s.at > start
}

func (s *skipper) nested() bool {
	depth := 0
	for s.at < len(s.in) {
		switch s.in[s.at] {
		case '"':
			if !s.str() {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				s.at++
				return true
			}
		}
		s.at++
	}
	return false
}
