package pushrule

import (
	"strings"
	"unicode/utf8"
)

// Limits of patterns: matching costs as much as the value is long, times the number of question marks.
const (
	maxPattern       = 1024 // bytes
	maxQuestionMarks = 32
)

// acceptable says whether a pattern is within the limits.
func acceptable(pattern string) bool {
	return len(pattern) <= maxPattern && strings.Count(pattern, "?") <= maxQuestionMarks
}

// glob is a pattern (appendices, section "Glob-style matching"): * is any text, ? any one character. Both the pattern
// and what it is matched against are in lower case.
type glob struct {
	parts []string // what stands between the stars
}

func newGlob(pattern string) glob { return glob{parts: strings.Split(strings.ToLower(pattern), "*")} }

// literal is a pattern without special characters.
func literal(text string) glob { return glob{parts: []string{strings.ToLower(text)}} }

// whole says whether the pattern matches all of s.
func (g glob) whole(s string, left *steps) bool {
	first, rest := g.parts[0], g.parts[1:]
	at, ok := matchAt(s, 0, first)
	if !ok {
		return false
	}
	if len(rest) == 0 {
		return at == len(s)
	}
	for _, part := range rest[:len(rest)-1] {
		if at, ok = find(s, at, part, nil, nil, left); !ok {
			return false
		}
	}
	end := func(i int) bool { return i == len(s) }
	_, ok = find(s, at, rest[len(rest)-1], nil, end, left)
	return ok
}

// words says whether the pattern matches a part of s that begins and ends at a word boundary (condition event_match,
// content.body). Each part is taken as early as it can be: what follows a star has the more to choose from.
func (g glob) words(s string, left *steps) bool {
	at := 0
	boundary := func(i int) bool { return wordBoundary(s, i) }
	for i, part := range g.parts {
		var begin, end func(int) bool
		if i == 0 {
			begin = boundary
		}
		if i == len(g.parts)-1 {
			end = boundary
		}
		var ok bool
		if at, ok = find(s, at, part, begin, end, left); !ok {
			return false
		}
	}
	return true
}

// find returns the end of the first match of part at or after from, of those that begin and end where they may.
func find(s string, from int, part string, begin, end func(int) bool, left *steps) (int, bool) {
	plain := part != "" && strings.IndexByte(part, '?') < 0
	for i := from; i <= len(s); {
		if !left.take(1 + len(part)/8) {
			return 0, false
		}
		if plain {
			next := strings.Index(s[i:], part)
			if next < 0 {
				left.take((len(s) - i) / 8)
				return 0, false
			}
			left.take(next / 8)
			i += next
		}
		if begin == nil || begin(i) {
			if at, ok := matchAt(s, i, part); ok && (end == nil || end(at)) {
				return at, true
			}
		}
		if i == len(s) {
			break
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		i += n
	}
	return 0, false
}

// matchAt matches a part without stars at a place and returns where it ends.
func matchAt(s string, at int, part string) (int, bool) {
	for part != "" {
		q := strings.IndexByte(part, '?')
		text := part
		if q >= 0 {
			text = part[:q]
		}
		if !strings.HasPrefix(s[at:], text) {
			return 0, false
		}
		at += len(text)
		if q < 0 {
			return at, true
		}
		if at == len(s) {
			return 0, false
		}
		_, n := utf8.DecodeRuneInString(s[at:])
		at += n
		part = part[q+1:]
	}
	return at, true
}

// wordBoundary says whether words end at i: at the ends of s and beside any character other than A-Z, a-z, 0-9 and _.
func wordBoundary(s string, i int) bool {
	return i == 0 || i == len(s) || !wordByte(s[i-1]) || !wordByte(s[i])
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// literalWords says whether text, in any case and without special characters, stands in lower between word boundaries.
func literalWords(text, lower string, left *steps) bool {
	text = strings.ToLower(text)
	for at := 0; left.take((len(lower)-at)/8 + 1); at++ {
		next := strings.Index(lower[at:], text)
		if next < 0 {
			return false
		}
		at += next
		if wordBoundary(lower, at) && wordBoundary(lower, at+len(text)) {
			return true
		}
	}
	return false
}
