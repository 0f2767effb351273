package client

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/roomdb"
	"hanse/pkg/view"
)

// answer builds an answer that holds events: they are JSON already.
type answer struct {
	b    *bytes.Buffer
	more bool
}

func newAnswer() *answer {
	a := &answer{b: httpx.Buffer()}
	a.b.WriteByte('{')
	return a
}

func (a *answer) key(k string) {
	if a.more {
		a.b.WriteByte(',')
	}
	a.more = true
	a.b.Write(canonjson.AppendString(a.b.AvailableBuffer(), k))
	a.b.WriteByte(':')
}

func (a *answer) text(k, v string) {
	a.key(k)
	a.b.Write(canonjson.AppendString(a.b.AvailableBuffer(), v))
}

func (a *answer) raw(k string, v []byte) {
	a.key(k)
	a.b.Write(v)
}

func (a *answer) list(k string, events [][]byte) {
	a.key(k)
	writeList(a.b, events)
}

func (a *answer) send(w http.ResponseWriter) error {
	a.b.WriteByte('}')
	return httpx.Send(w, a.b)
}

func writeList(b *bytes.Buffer, events [][]byte) {
	b.WriteByte('[')
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e)
	}
	b.WriteByte(']')
}

// render returns events as the client that asks sees them.
func (c *Client) render(ctx context.Context, r *http.Request, events []*roomdb.Event) ([][]byte, error) {
	i := me(r)
	return view.Render(ctx, c.rooms, view.Format{User: i.User, Device: i.Device, WithRoomID: true, Now: time.Now()}, events)
}
