package core

import (
	"bytes"
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
)

// Answer builds an answer that holds events: they are JSON already.
type Answer struct {
	b    *bytes.Buffer
	more bool
}

// NewAnswer begins an object.
func NewAnswer() *Answer {
	a := &Answer{b: httpx.Buffer()}
	a.b.WriteByte('{')
	return a
}

// Key writes a name; its value comes next.
func (a *Answer) Key(k string) {
	if a.more {
		a.b.WriteByte(',')
	}
	a.more = true
	a.b.Write(canonjson.AppendString(a.b.AvailableBuffer(), k))
	a.b.WriteByte(':')
}

// Text writes a member that is a text.
func (a *Answer) Text(k, v string) {
	a.Key(k)
	a.b.Write(canonjson.AppendString(a.b.AvailableBuffer(), v))
}

// Number writes a member that is a number.
func (a *Answer) Number(k string, n int64) {
	a.Key(k)
	a.b.Write(strconv.AppendInt(a.b.AvailableBuffer(), n, 10))
}

// Raw writes a member that is JSON.
func (a *Answer) Raw(k string, v []byte) {
	a.Key(k)
	a.b.Write(v)
}

// List writes a member that is a list of events.
func (a *Answer) List(k string, events [][]byte) {
	a.Key(k)
	a.b.WriteByte('[')
	for i, e := range events {
		if i > 0 {
			a.b.WriteByte(',')
		}
		a.b.Write(e)
	}
	a.b.WriteByte(']')
}

// Begun is what was written so far.
func (a *Answer) Begun() string { return a.b.String() }

// Object ends the object and returns it, for a part of another answer.
func (a *Answer) Object() []byte {
	a.b.WriteByte('}')
	return a.b.Bytes()
}

// Send ends the object and answers with it.
func (a *Answer) Send(w http.ResponseWriter) error {
	a.b.WriteByte('}')
	return httpx.Send(w, a.b)
}
