package room

import (
	"errors"
	"strings"
	"unicode/utf8"

	"hanse/pkg/matrix/event"
)

// errUnstorable refuses what JSON allows and PostgreSQL's text does not: zero bytes. Letting such a value through would
// make PostgreSQL refuse the whole append.
var errUnstorable = errors.New("zero bytes or invalid UTF-8 in identifiers are not supported")

// storable looks at all parts of an event that are stored as text.
func storable(pdu *event.PDU) error {
	ok := storableText(pdu.Type, string(pdu.Sender), string(pdu.ID), string(pdu.Redacts))
	if pdu.StateKey != nil {
		ok = ok && storableText(*pdu.StateKey)
	}
	for _, p := range pdu.PrevEvents {
		ok = ok && storableText(string(p))
	}
	for _, a := range pdu.AuthEvents {
		ok = ok && storableText(string(a))
	}
	if !ok {
		return errUnstorable
	}
	return nil
}

func storableText(texts ...string) bool {
	for _, t := range texts {
		if strings.IndexByte(t, 0) >= 0 || !utf8.ValidString(t) {
			return false
		}
	}
	return true
}
