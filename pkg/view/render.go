package view

import (
	"context"
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
		out[i] = e.ClientJSON(nil, unsigned(e, f, related), f.WithRoomID)
	}
	return out, nil
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

func unsigned(e *roomdb.Event, f Format, related map[int64]*roomdb.Event) []byte {
	b := append(make([]byte, 0, 64), `{"age":`...)
	b = strconv.AppendInt(b, max(0, f.Now.UnixMilli()-e.OriginServerTS), 10)
	if txn, ok := transaction(e.Cause, f); ok {
		b = append(b, `,"transaction_id":`...)
		b = canonjson.AppendString(b, txn)
	}
	if prev := related[e.Replaces]; prev != nil {
		b = append(b, `,"prev_content":`...)
		b = append(b, prev.Content...)
		b = append(b, `,"prev_sender":`...)
		b = canonjson.AppendString(b, string(prev.Sender))
		b = append(b, `,"replaces_state":`...)
		b = canonjson.AppendString(b, string(prev.ID))
	}
	if because := related[e.RedactedBy]; because != nil {
		b = append(b, `,"redacted_because":`...)
		b = because.ClientJSON(b, nil, f.WithRoomID)
	}
	return append(b, '}')
}

func transaction(cause string, f Format) (string, bool) {
	rest, ok := strings.CutPrefix(cause, string(f.User)+"\x1f"+string(f.Device)+"\x1f")
	return rest, ok && f.Device != ""
}
