package room

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// errUnstorable refuses what JSON allows and PostgreSQL's text does not: zero bytes.
var errUnstorable = errors.New("zero bytes or invalid UTF-8 in identifiers are not supported")

// errLong refuses names that are longer than what can have them.
var errLong = errors.New("an identifier is longer than 255 bytes")

func storableText(texts ...string) bool {
	for _, t := range texts {
		if strings.IndexByte(t, 0) >= 0 || !utf8.ValidString(t) {
			return false
		}
	}
	return true
}
