package view

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Format says for whom events are written.
type Format struct {
	User   id.User
	Device id.Device
	// WithRoomID writes room_id; /sync leaves it out, as the response names the room.
	WithRoomID bool
	// Now is the time that unsigned.age counts to.
	Now time.Time
	// Bundles is what is said of the events that relate to others; see Bundled.
	Bundles Bundles
	// Memberships is what the user was to the room at the events; see the function Memberships. Events that are not in it say nothing
	// of it.
	Memberships map[*roomdb.Event]string
}

// Cause returns what ties an event to the request that made it (see hanse.room.v1.Cause): a transaction of a device.
func Cause(user id.User, device id.Device, txn string) string {
	return string(user) + "\x1f" + string(device) + "\x1f" + txn
}

// Render returns the events in the client format, each with its unsigned data: age, transaction_id for the device
// that sent it, what a state event replaced, and why a redacted event is redacted.
func Render(ctx context.Context, db *roomdb.DB, f Format, events []*roomdb.Event) ([][]byte, error) {
	related, err := relatedTo(ctx, db, events)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, len(events))
	for i, e := range events {
		b := make([]byte, 0, len(e.Content)+400)
		out[i] = f.appendEnd(f.appendHead(b, e, related), mark{ts: e.OriginServerTS, cause: e.Cause, bundle: f.Bundles[e]}, f.Memberships[e])
	}
	return out, nil
}

// Append is Render to one buffer, with commas between the events.
func Append(ctx context.Context, db *roomdb.DB, f Format, b []byte, events []*roomdb.Event) ([]byte, error) {
	related, err := relatedTo(ctx, db, events)
	if err != nil {
		return nil, err
	}
	for i, e := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = f.appendEnd(f.appendHead(b, e, related), mark{ts: e.OriginServerTS, cause: e.Cause, bundle: f.Bundles[e]}, f.Memberships[e])
	}
	return b, nil
}

// List is a list of events, written for any reader but for what depends on who that is and on the time. It is
// immutable.
type List struct {
	heads []byte
	marks []mark
}

// mark is what an event in a list lacks.
type mark struct {
	end   int // of its head
	ts    int64
	cause string
	// bundle is nil if nothing relates to the event.
	bundle *Bundle
}

// Prepare writes a list of events. It holds until one of them, or what its unsigned data shows, is redacted. The
// format's user, device and time do not matter.
func Prepare(ctx context.Context, db *roomdb.DB, f Format, events []*roomdb.Event) (List, error) {
	related, err := relatedTo(ctx, db, events)
	if err != nil {
		return List{}, err
	}
	l := List{marks: make([]mark, 0, len(events))}
	for _, e := range events {
		l.heads = f.appendHead(l.heads, e, related)
		l.marks = append(l.marks, mark{len(l.heads), e.OriginServerTS, e.Cause, f.Bundles[e]})
	}
	l.heads = slices.Clip(l.heads)
	return l, nil
}

// Len returns the number of events.
func (l *List) Len() int { return len(l.marks) }

// Size returns about how many bytes the list takes, in memory and as JSON.
func (l *List) Size() int {
	n := len(l.heads) + 60*len(l.marks)
	for _, m := range l.marks {
		n += m.bundle.Size()
	}
	return n
}

// Append appends the events for a reader, with commas between them.
func (l *List) Append(b []byte, f Format) []byte {
	start := 0
	for i, m := range l.marks {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, l.heads[start:m.end]...)
		b = f.appendEnd(b, m, "")
		start = m.end
	}
	return b
}

// relatedTo loads the events that the unsigned data of others shows.
func relatedTo(ctx context.Context, db *roomdb.DB, events []*roomdb.Event) (map[int64]*roomdb.Event, error) {
	var nids []int64
	for _, e := range events {
		if e.Replaces != 0 {
			nids = append(nids, e.Replaces)
		}
		if e.RedactedBy != 0 {
			nids = append(nids, e.RedactedBy)
		}
	}
	if len(nids) == 0 {
		return nil, nil
	}
	return db.Events(ctx, events[0].Part, nids)
}

// appendHead appends an event up to the number of unsigned.age. That of an event which shows no other is kept beside
// it: many are told of the same message.
func (f *Format) appendHead(b []byte, e *roomdb.Event, related map[int64]*roomdb.Event) []byte {
	alone := !f.WithRoomID && e.Replaces == 0 && e.RedactedBy == 0
	if alone {
		if head := e.Head(); head != nil {
			return append(b, head...)
		}
	}
	start := len(b)
	b = e.ClientJSON(b, nil, f.WithRoomID)
	b = append(b[:len(b)-1], `,"unsigned":{`...)
	if prev := related[e.Replaces]; prev != nil {
		b = appendReplaced(b, prev.Content, canonjson.AppendString(nil, string(prev.Sender)), []byte(prev.ID))
	}
	if because := related[e.RedactedBy]; because != nil {
		b = append(b, `"redacted_because":`...)
		b = because.ClientJSON(b, nil, f.WithRoomID)
		b = append(b, ',')
	}
	b = append(b, `"age":`...)
	if alone {
		e.KeepHead(slices.Clone(b[start:]))
	}
	return b
}

// appendReplaced appends what unsigned shows of an event that was replaced. The sender is JSON.
func appendReplaced(b, content, sender, eventID []byte) []byte {
	b = append(b, `"prev_content":`...)
	b = append(b, content...)
	b = append(b, `,"prev_sender":`...)
	b = append(b, sender...)
	b = append(b, `,"replaces_state":`...)
	b = canonjson.AppendString(b, string(eventID))
	return append(b, ',')
}

// appendEnd appends what is behind the head: the age, the transaction id for the device that sent the event, and what relates to
// it. membership is left out if it is "".
func (f *Format) appendEnd(b []byte, m mark, membership string) []byte {
	b = strconv.AppendInt(b, max(0, f.Now.UnixMilli()-m.ts), 10)
	if txn, ok := f.transaction(m.cause); ok {
		b = append(b, `,"transaction_id":`...)
		b = canonjson.AppendString(b, txn)
	}
	if membership != "" {
		b = append(b, `,"membership":`...)
		b = canonjson.AppendString(b, membership)
	}
	b = m.bundle.append(b, f)
	return append(b, '}', '}')
}

// transaction takes what Cause wrote apart.
func (f *Format) transaction(cause string) (string, bool) {
	// Names of users are alike at their beginnings, so the separators are compared first.
	n, end := len(f.User), len(f.User)+1+len(f.Device)
	if f.Device == "" || len(cause) <= end || cause[n] != '\x1f' || cause[end] != '\x1f' {
		return "", false
	}
	txn, _, _ := strings.Cut(cause[end+1:], "\x1f\x1f") // what follows tells endpoints apart
	return txn, cause[n+1:end] == string(f.Device) && cause[:n] == string(f.User)
}
