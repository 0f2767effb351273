// Package canonjson reads and writes canonical JSON (appendices, section "Canonical JSON"): the shortest UTF-8 form,
// members sorted by code point, integers within ±(2^53-1) only.
//
// Bytes that were signed are never re-marshalled: Object takes an object apart into the raw bytes of its members, so
// that hashing, signing and redaction leave members out or put one in without touching the others.
package canonjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may nest.
const MaxDepth = 128

// The largest integers.
const (
	MaxInt = 1<<53 - 1
	MinInt = -MaxInt
)

// Reasons why input has no canonical form.
var (
	ErrSyntax    = errors.New("not JSON")
	ErrDepth     = errors.New("nested too deeply")
	ErrNumber    = errors.New("not an integer within ±(2^53-1)")
	ErrDuplicate = errors.New("duplicate member")
	ErrUTF8      = errors.New("not UTF-8")
)

// Canonical returns the canonical form of b; b itself if it is canonical already.
func Canonical(b []byte) ([]byte, error) { return canonical(b, true, MaxDepth) }

// CanonicalLoose is Canonical as room versions below 6 have it (room version 1, section "Canonical JSON"): integers of any
// size stay, fractions are written as Synapse writes them, since its bytes are what was signed, and of duplicate
// members the last one counts.
func CanonicalLoose(b []byte) ([]byte, error) { return canonical(b, false, MaxDepth) }

// maxEnvelope is how deep CanonicalEnvelope lets arrays and objects nest.
const maxEnvelope = 4096

// CanonicalEnvelope is CanonicalLoose for what events travel in: an event that is nested too deeply must not make the
// whole request unreadable, or a single one would cut a server off.
func CanonicalEnvelope(b []byte) ([]byte, error) { return canonical(b, false, maxEnvelope) }

// Marshal returns the canonical form of what encoding/json makes of v.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("marshal: %w", err)
	}
	return Canonical(buf.Bytes())
}

func canonical(b []byte, strict bool, depth int) ([]byte, error) {
	w := writer{in: b, out: make([]byte, 0, len(b)), strict: strict, depth: depth}
	w.space()
	if err := w.value(0); err != nil {
		return nil, fmt.Errorf("at byte %d: %w", w.at, err)
	}
	w.space()
	if w.at != len(b) {
		return nil, fmt.Errorf("at byte %d: %w", w.at, ErrSyntax)
	}
	if bytes.Equal(w.out, b) {
		return b, nil
	}
	return w.out, nil
}

// writer parses in and appends its canonical form to out.
type writer struct {
	in      []byte
	at      int
	out     []byte
	strict  bool
	depth   int      // how deep arrays and objects may nest
	check   bool     // nothing is kept in out
	members []member // of the objects that are open
	scratch []byte
}

// member is where a member of an object stands in out.
type member struct {
	key        string
	start, end int
}

func (w *writer) space() {
	for w.at < len(w.in) {
		switch w.in[w.at] {
		case ' ', '\t', '\n', '\r':
			w.at++
		default:
			return
		}
	}
}

func (w *writer) value(depth int) error {
	if depth > w.depth {
		return ErrDepth
	}
	if w.at == len(w.in) {
		return ErrSyntax
	}
	if w.check {
		defer func(n int) { w.out = w.out[:n] }(len(w.out))
	}
	switch c := w.in[w.at]; {
	case c == '{':
		return w.object(depth)
	case c == '[':
		return w.array(depth)
	case c == '"':
		return w.str()
	case c == '-' || c >= '0' && c <= '9':
		return w.number()
	case c == 't':
		return w.literal("true")
	case c == 'f':
		return w.literal("false")
	case c == 'n':
		return w.literal("null")
	}
	return ErrSyntax
}

func (w *writer) literal(s string) error {
	if len(w.in)-w.at < len(s) || string(w.in[w.at:w.at+len(s)]) != s {
		return ErrSyntax
	}
	w.at += len(s)
	w.out = append(w.out, s...)
	return nil
}

func (w *writer) array(depth int) error {
	w.at++
	w.out = append(w.out, '[')
	for first := true; ; first = false {
		w.space()
		if w.at == len(w.in) {
			return ErrSyntax
		}
		if w.in[w.at] == ']' && first {
			break
		}
		if err := w.value(depth + 1); err != nil {
			return err
		}
		more, err := w.separator(']')
		if err != nil {
			return err
		}
		if !more {
			w.out = append(w.out, ']')
			return nil
		}
		w.out = append(w.out, ',')
	}
	w.at++
	w.out = append(w.out, ']')
	return nil
}

// separator consumes a comma (true) or the closing bracket (false).
func (w *writer) separator(closing byte) (bool, error) {
	w.space()
	if w.at == len(w.in) {
		return false, ErrSyntax
	}
	c := w.in[w.at]
	w.at++
	switch c {
	case ',':
		return true, nil
	case closing:
		return false, nil
	}
	return false, ErrSyntax
}

func (w *writer) object(depth int) error {
	w.at++
	w.out = append(w.out, '{')
	begin, base := len(w.out), len(w.members)
	for first := true; ; first = false {
		w.space()
		if w.at == len(w.in) {
			return ErrSyntax
		}
		if w.in[w.at] == '}' && first {
			w.at++
			break
		}
		if w.in[w.at] != '"' {
			return ErrSyntax
		}
		if !first {
			w.out = append(w.out, ',')
		}
		if err := w.member(depth); err != nil {
			return err
		}
		more, err := w.separator('}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if err := w.sortMembers(begin, base); err != nil {
		return err
	}
	w.members = w.members[:base]
	w.out = append(w.out, '}')
	return nil
}

func (w *writer) member(depth int) error {
	start := len(w.out)
	if err := w.str(); err != nil {
		return err
	}
	key, err := "", error(nil)
	if w.check {
		w.out = w.out[:start]
	} else if key, err = unquote(w.out[start:]); err != nil {
		return err
	}
	w.space()
	if w.at == len(w.in) || w.in[w.at] != ':' {
		return ErrSyntax
	}
	w.at++
	w.out = append(w.out, ':')
	w.space()
	if err := w.value(depth + 1); err != nil {
		return err
	}
	if !w.check {
		w.members = append(w.members, member{key, start, len(w.out)})
	}
	return nil
}

// sortMembers brings the members that were written since begin into order.
func (w *writer) sortMembers(begin, base int) error {
	ms := w.members[base:]
	inOrder := true
	for i := 1; i < len(ms) && inOrder; i++ {
		inOrder = ms[i-1].key < ms[i].key
	}
	if inOrder {
		return nil
	}
	slices.SortStableFunc(ms, func(a, b member) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return 0
	})
	w.scratch = append(w.scratch[:0], w.out[begin:]...)
	w.out = w.out[:begin]
	for i, m := range ms {
		if i+1 < len(ms) && ms[i+1].key == m.key {
			if w.strict {
				return ErrDuplicate
			}
			continue
		}
		if len(w.out) > begin {
			w.out = append(w.out, ',')
		}
		w.out = append(w.out, w.scratch[m.start-begin:m.end-begin]...)
	}
	return nil
}

func (w *writer) number() error {
	start := w.at
	if w.in[w.at] == '-' {
		w.at++
	}
	digits := w.at
	for w.at < len(w.in) && w.in[w.at] >= '0' && w.in[w.at] <= '9' {
		w.at++
	}
	if w.at == digits || w.in[digits] == '0' && w.at-digits > 1 {
		return ErrSyntax
	}
	integer := true
	if w.at < len(w.in) && w.in[w.at] == '.' {
		integer = false
		w.at++
		if !w.digits() {
			return ErrSyntax
		}
	}
	if w.at < len(w.in) && (w.in[w.at] == 'e' || w.in[w.at] == 'E') {
		integer = false
		w.at++
		if w.at < len(w.in) && (w.in[w.at] == '+' || w.in[w.at] == '-') {
			w.at++
		}
		if !w.digits() {
			return ErrSyntax
		}
	}
	text := w.in[start:w.at]
	if !integer {
		return w.fraction(text)
	}
	if len(text) < 16 && text[0] != '-' {
		w.out = append(w.out, text...)
		return nil
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n > MaxInt || n < MinInt {
		if w.strict {
			return ErrNumber
		}
		w.out = append(w.out, text...)
		return nil
	}
	w.out = strconv.AppendInt(w.out, n, 10) // -0 is 0
	return nil
}

// fraction writes a number with a fraction or an exponent, in the shortest form that reads back as the same float64:
// positional from 1e-4 to below 1e16, and always recognisable as no integer.
func (w *writer) fraction(text []byte) error {
	if w.strict {
		return ErrNumber
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return ErrNumber // too large for a float64
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		w.out = strconv.AppendFloat(w.out, f, 'e', -1, 64)
		return nil
	}
	start := len(w.out)
	w.out = strconv.AppendFloat(w.out, f, 'f', -1, 64)
	if bytes.IndexByte(w.out[start:], '.') < 0 {
		w.out = append(w.out, '.', '0')
	}
	return nil
}

func (w *writer) digits() bool {
	start := w.at
	for w.at < len(w.in) && w.in[w.at] >= '0' && w.in[w.at] <= '9' {
		w.at++
	}
	return w.at > start
}

// str reads a string and writes it with as few escapes as can be.
func (w *writer) str() error {
	w.at++
	start := w.at
	// The usual string needs no change.
	for w.at < len(w.in) {
		c := w.in[w.at]
		if c == '"' {
			w.out = append(w.out, '"')
			w.out = append(w.out, w.in[start:w.at]...)
			w.out = append(w.out, '"')
			w.at++
			return nil
		}
		if c == '\\' || c < 0x20 || c >= utf8.RuneSelf {
			break
		}
		w.at++
	}
	w.out = append(w.out, '"')
	w.out = append(w.out, w.in[start:w.at]...)
	for w.at < len(w.in) {
		c := w.in[w.at]
		switch {
		case c == '"':
			w.at++
			w.out = append(w.out, '"')
			return nil
		case c < 0x20:
			return ErrSyntax
		case c == '\\':
			r, err := w.escape()
			if err != nil {
				return err
			}
			w.out = appendRune(w.out, r)
		case c < utf8.RuneSelf:
			w.out = append(w.out, c)
			w.at++
		default:
			r, n := utf8.DecodeRune(w.in[w.at:])
			if r == utf8.RuneError && n <= 1 {
				return ErrUTF8
			}
			w.out = append(w.out, w.in[w.at:w.at+n]...)
			w.at += n
		}
	}
	return ErrSyntax
}

func (w *writer) escape() (rune, error) {
	if len(w.in)-w.at < 2 {
		return 0, ErrSyntax
	}
	c := w.in[w.at+1]
	w.at += 2
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
	default:
		return 0, ErrSyntax
	}
	r, err := w.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if len(w.in)-w.at < 6 || w.in[w.at] != '\\' || w.in[w.at+1] != 'u' {
		return 0, ErrUTF8
	}
	w.at += 2
	low, err := w.hex4()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, ErrUTF8
	}
	return r, nil
}

func (w *writer) hex4() (rune, error) {
	if len(w.in)-w.at < 4 {
		return 0, ErrSyntax
	}
	var r rune
	for _, c := range w.in[w.at : w.at+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, ErrSyntax
		}
		r = r<<4 | rune(c)
	}
	w.at += 4
	return r, nil
}

const hexDigits = "0123456789abcdef"

func appendRune(b []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r >= 0x20:
		return utf8.AppendRune(b, r)
	case r == '\b':
		return append(b, '\\', 'b')
	case r == '\f':
		return append(b, '\\', 'f')
	case r == '\n':
		return append(b, '\\', 'n')
	case r == '\r':
		return append(b, '\\', 'r')
	case r == '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
}

// AppendString appends s as a canonical JSON string. Bytes that are not UTF-8 become U+FFFD.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	plain := 0
	for plain < len(s) && s[plain] >= 0x20 && s[plain] < utf8.RuneSelf && s[plain] != '"' && s[plain] != '\\' {
		plain++
	}
	b = append(b, s[:plain]...)
	for i := plain; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			b = appendRune(b, rune(c))
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		b = utf8.AppendRune(b, r)
		i += n
	}
	return append(b, '"')
}

// unquote returns the text of a canonical string.
func unquote(b []byte) (string, error) {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return "", ErrSyntax
	}
	in := b[1 : len(b)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return string(in), nil
	}
	w := writer{in: in}
	out := make([]byte, 0, len(in))
	for w.at < len(in) {
		if in[w.at] != '\\' {
			out = append(out, in[w.at])
			w.at++
			continue
		}
		r, err := w.escape()
		if err != nil {
			return "", err
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out), nil
}
