package fedin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
	roomv1 "hanse/proto/room/v1"
)

const (
	// typingTime is how long somebody of another server counts as typing without saying so again, as with Synapse.
	typingTime = time.Minute
	// maxReceiptRooms and maxReceipts bound the rooms of one m.receipt and the receipts of each.
	maxReceiptRooms = 100
	maxReceipts     = 256
)

// errEDU marks EDUs that are malformed, or that their server has no business to send: they are ignored (server-server
// API, "EDUs").
var errEDU = errors.New("EDU ignored")

func ignored(why string) error { return fmt.Errorf("%w: %s", errEDU, why) }

// receiveEDUs takes in the EDUs of a transaction in their order. What is wrong with one of them costs neither the others
// nor the transaction. An error means that our own parts failed.
func (f *Fedin) receiveEDUs(ctx context.Context, q *request, edus []edu) error {
	changed := newDeviceChanges(q.origin)
	for _, e := range edus {
		err := f.receiveEDU(ctx, q, e, changed)
		if pg.Unstorable(err) {
			err = ignored("text that cannot be stored")
		}
		result := "taken"
		if errors.Is(err, errEDU) {
			f.log.DebugContext(ctx, "EDU", "server", q.origin, "type", e.Type, "err", err)
			result, err = "ignored", nil
		}
		if err != nil {
			f.metrics.edus.WithLabelValues(labelOf(e.Type), "failed").Inc()
			return fmt.Errorf("%s: %w", e.Type, err)
		}
		f.metrics.edus.WithLabelValues(labelOf(e.Type), result).Inc()
	}
	return f.tellOfDevices(ctx, changed)
}

// labelOf keeps the metric small, whatever types others make up.
func labelOf(typ string) string {
	switch typ {
	case "m.typing", "m.receipt", "m.presence", "m.direct_to_device", "m.device_list_update":
		return typ
	case "m.signing_key_update", "org.matrix.signing_key_update":
		return "m.signing_key_update"
	}
	return "other"
}

func (f *Fedin) receiveEDU(ctx context.Context, q *request, e edu, changed *deviceChanges) error {
	switch e.Type {
	case "m.typing":
		return f.receiveTyping(ctx, q.origin, e.Content)
	case "m.receipt":
		return f.receiveReceipts(ctx, q.origin, e.Content)
	case "m.presence":
		return f.receivePresence(ctx, q.origin, e.Content)
	case "m.direct_to_device":
		return f.receiveToDevice(ctx, q.origin, e.Content)
	case "m.device_list_update":
		return f.receiveDeviceUpdate(ctx, q.origin, e.Content, changed)
	case "m.signing_key_update", "org.matrix.signing_key_update":
		return f.receiveSigningKeys(ctx, q.origin, e.Content, changed)
	}
	return ignored("unknown type")
}

// decodeEDU reads the content in its canonical form, so that what is kept of it as raw JSON reads the same to everybody.
func decodeEDU(content json.RawMessage, v any) error {
	canonical, err := canonjson.CanonicalLoose(content)
	if err == nil {
		err = canonjson.Decode(canonical, v)
	}
	if err != nil {
		return ignored("malformed: " + err.Error())
	}
	return nil
}

// plain says whether all of the texts can be stored.
func plain(texts ...string) bool {
	for _, t := range texts {
		if strings.IndexByte(t, 0) >= 0 {
			return false
		}
	}
	return true
}

// userOf checks that a user id is one of the server's.
func userOf(text string, origin id.Server) (id.User, error) {
	u, err := id.ParseUser(text)
	if err != nil {
		return "", ignored(err.Error())
	}
	if u.Server() != origin {
		return "", ignored("the user is of another server")
	}
	return u, nil
}

// compliantUserOf is userOf for what clients see outside of events: they are spared user ids of the historical character set
// there, "for example, device list updates from non-compliant user IDs would be dropped" (appendices, "Historical User IDs").
func compliantUserOf(text string, origin id.Server) (id.User, error) {
	u, err := userOf(text, origin)
	if err == nil && !u.Compliant() {
		return "", ignored("a historical user ID")
	}
	return u, err
}

// receiveTyping takes m.typing (server-server API, "Typing Notifications").
func (f *Fedin) receiveTyping(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var t struct {
		Room   string `json:"room_id"`
		User   string `json:"user_id"`
		Typing bool   `json:"typing"`
	}
	if err := decodeEDU(content, &t); err != nil {
		return err
	}
	user, err := compliantUserOf(t.User, origin)
	if err != nil {
		return err
	}
	room, err := f.roomOfEDU(ctx, t.Room, origin)
	if err != nil {
		return err
	}
	in, err := f.joined(ctx, room, user)
	if err != nil {
		return err
	}
	if !in[user] {
		return ignored("the user is not in the room")
	}
	return f.bus.PublishTyping(room.Part, &logv1.Typing{RoomId: string(room.ID), UserId: string(user), Typing: t.Typing, TimeoutMs: typingTime.Milliseconds()})
}

// roomOfEDU returns a room that we are in and that the server is not kept out of.
func (f *Fedin) roomOfEDU(ctx context.Context, text string, origin id.Server) (*roomdb.Room, error) {
	roomID, err := id.ParseRoom(text)
	if err != nil {
		return nil, ignored(err.Error())
	}
	room, err := f.rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) || err == nil && room.JoinedLocal == 0 {
		return nil, ignored("unknown room")
	}
	if err != nil {
		return nil, err
	}
	if err := f.admitted(ctx, room, origin); err != nil {
		if merr.HasCode(err, merr.CodeForbidden) {
			return nil, ignored("the server is banned from the room")
		}
		return nil, err
	}
	return room, nil
}

// joined says who of some users of one server is in a room now. While we lack members of the room, who is not known is taken
// for one of those if the server is in the room: what is not taken now would never come again.
func (f *Fedin) joined(ctx context.Context, room *roomdb.Room, users ...id.User) (map[id.User]bool, error) {
	m, err := f.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return nil, err
	}
	in := make(map[id.User]bool, len(users))
	nids := make([]int64, 0, len(users))
	for _, u := range users {
		if nid, ok := m.Get(memberKey(u)); ok {
			nids = append(nids, nid)
		} else if room.Partial() {
			if in[u], err = f.rooms.InRoom(ctx, room.Part, room.NID, u.Server()); err != nil {
				return nil, err
			}
		}
	}
	events, err := f.rooms.Events(ctx, room.Part, nids)
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		if nid, ok := m.Get(memberKey(u)); ok && events[nid] != nil && events[nid].Membership() == "join" {
			in[u] = true
		}
	}
	return in, nil
}

func stateKey(typ, key string) state.Key { return state.Key{Type: typ, StateKey: key} }

func memberKey(u id.User) state.Key { return stateKey("m.room.member", string(u)) }

// receiptContent is the content of m.receipt: by room, type and user.
type receiptContent map[string]map[string]map[string]struct {
	Data struct {
		TS       int64  `json:"ts"`
		ThreadID string `json:"thread_id"`
	} `json:"data"`
	EventIDs []string `json:"event_ids"`
}

// receiveReceipts takes m.receipt (server-server API, "Receipts").
func (f *Fedin) receiveReceipts(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var byRoom receiptContent
	if err := decodeEDU(content, &byRoom); err != nil {
		return err
	}
	if len(byRoom) > maxReceiptRooms {
		return ignored("too many rooms")
	}
	taken := false
	for text, byType := range byRoom {
		room, err := f.roomOfEDU(ctx, text, origin)
		if errors.Is(err, errEDU) {
			continue
		}
		if err != nil {
			return err
		}
		var intents []*roomv1.ReceiptIntent
		var users []id.User
		// Private receipts never leave their server: m.read is the only type there is.
		for userText, r := range byType["m.read"] {
			user, err := compliantUserOf(userText, origin)
			if err != nil || len(r.EventIDs) == 0 || len(intents) == maxReceipts || !readableReceipt(r.EventIDs[0], r.Data.ThreadID) {
				continue
			}
			users = append(users, user)
			intents = append(intents, &roomv1.ReceiptIntent{UserId: string(user), Type: "m.read", ThreadId: r.Data.ThreadID,
				EventId: r.EventIDs[0], Ts: r.Data.TS})
		}
		if err := f.putReceipts(ctx, room, users, intents); err != nil {
			return err
		}
		taken = taken || len(intents) > 0
	}
	if !taken {
		return ignored("no receipts")
	}
	return nil
}

// readableReceipt says whether a receipt names an event, and a thread if it names one.
func readableReceipt(event, thread string) bool {
	_, err := id.ParseEvent(event)
	return err == nil && len(thread) <= id.MaxLength && plain(thread)
}

func (f *Fedin) putReceipts(ctx context.Context, room *roomdb.Room, users []id.User, intents []*roomv1.ReceiptIntent) error {
	in, err := f.joined(ctx, room, users...)
	if err != nil {
		return err
	}
	req := &roomv1.ReceiptsRequest{RoomId: string(room.ID)}
	for i, r := range intents {
		if in[users[i]] {
			req.Receipts = append(req.Receipts, r)
		}
	}
	if len(req.Receipts) == 0 {
		return nil
	}
	err = roomowner.Call(ctx, f.router, room.ID, func(ctx context.Context, c roomv1.RoomClient) error {
		_, err := c.Receipts(ctx, req)
		return err
	})
	if _, about := aboutRequest(err); about {
		return nil // we left the room meanwhile
	}
	return err
}
