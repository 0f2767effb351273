package client

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
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

func (a *answer) number(k string, n int64) {
	a.key(k)
	a.b.Write(strconv.AppendInt(a.b.AvailableBuffer(), n, 10))
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

// format is how the client that asks sees events.
func format(r *http.Request) view.Format {
	i := me(r)
	return view.Format{User: i.User, Device: i.Device, WithRoomID: true, Now: time.Now()}
}

// render returns events as the client that asks sees them.
func (c *Client) render(ctx context.Context, r *http.Request, events []*roomdb.Event) ([][]byte, error) {
	return view.Render(ctx, c.rooms, format(r), events)
}

// renderTimeline is render for events that are told as such, with what relates to them.
func (c *Client) renderTimeline(ctx context.Context, r *http.Request, a *access, events []*roomdb.Event) (_ [][]byte, err error) {
	f := format(r)
	if f.Bundles, err = view.Bundled(ctx, c.rooms, a.reader, a.ignored, events); err != nil {
		return nil, err
	}
	return view.Render(ctx, c.rooms, f, events)
}
