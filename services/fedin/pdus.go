package fedin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
)

// pduResult is what the sender of a PDU is told (server-server API, PUT /send).
type pduResult struct {
	Error string `json:"error,omitempty"`
}

// results are those of a transaction's PDUs.
type results struct {
	mu sync.Mutex
	of map[id.Event]pduResult
}

func (r *results) add(eventID id.Event, problem string) {
	if eventID == "" {
		return // nobody can say what to call it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.of[eventID]; !ok || old.Error != "" {
		r.of[eventID] = pduResult{problem}
	}
}

// busyRetries is how often a room that has too much to do is tried again before its PDUs are refused: the events that
// refer to them will make us ask for them.
const busyRetries = 5

// receivePDUs takes in the PDUs of a transaction (server-server API, "Checks performed on receipt of a PDU"), each room
// on its own.
func (f *Fedin) receivePDUs(ctx context.Context, origin id.Server, raw []json.RawMessage) (map[id.Event]pduResult, error) {
	out := &results{of: make(map[id.Event]pduResult, len(raw))}
	byRoom := make(map[id.Room][]json.RawMessage)
	var rooms []id.Room
	for _, b := range raw {
		if len(b) > event.MaxBytes+maxUnsigned {
			f.refuse(out, b, nil, "The event is too large")
			continue
		}
		roomID, err := id.ParseRoom(gjson.GetBytes(b, "room_id").Str)
		if err != nil {
			f.refuse(out, b, nil, "The event has no valid room_id")
			continue
		}
		if byRoom[roomID] == nil {
			rooms = append(rooms, roomID)
		}
		byRoom[roomID] = append(byRoom[roomID], b)
	}
	found, err := f.rooms.Rooms(ctx, rooms)
	if err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.cfg.TransactionRooms)
	for _, roomID := range rooms {
		room := found[roomID]
		if room == nil || room.JoinedLocal == 0 {
			g.Go(func() error { return f.receiveUnjoined(ctx, origin, roomID, byRoom[roomID], out) })
			continue
		}
		g.Go(func() error { return f.receiveRoom(ctx, origin, room, byRoom[roomID], out) })
	}
	return out.of, g.Wait()
}

// maxUnsigned is what the unsigned data of an event, which does not count for its size, may take.
const maxUnsigned = 65536

// refuse notes that a PDU was not looked at any further.
func (f *Fedin) refuse(out *results, raw []byte, room *roomdb.Room, problem string) {
	f.metrics.pdus.WithLabelValues("refused").Inc()
	var rules *roomversion.Rules
	if room != nil {
		rules = room.Rules
	}
	out.add(nameOf(raw, rules), problem)
}

// nameOf finds out what the sender calls an event that we do not take. Without the room's version that can only be the
// id in the event, or what the event would be called in most rooms.
func nameOf(raw []byte, rules *roomversion.Rules) id.Event {
	if rules == nil || rules.EventID == 1 {
		if eventID, err := id.ParseEvent(gjson.GetBytes(raw, "event_id").Str); err == nil {
			return eventID
		}
	}
	if rules == nil {
		rules, _ = roomversion.Get("11")
	}
	if len(raw) > event.MaxBytes+maxUnsigned || rules.EventID == 1 {
		return ""
	}
	canonical, err := canonjson.CanonicalLoose(raw)
	if err != nil {
		return ""
	}
	pdu, err := event.Parse(canonical, rules)
	if err != nil {
		return hashName(canonical, rules)
	}
	return pdu.ID
}

// receiveRoom takes in the PDUs of one room. An error means that our own parts failed.
func (f *Fedin) receiveRoom(ctx context.Context, origin id.Server, room *roomdb.Room, raw []json.RawMessage, out *results) error {
	list, err := f.acl(ctx, room)
	if err != nil {
		return err
	}
	if !list.Allows(origin) {
		for _, b := range raw {
			f.refuse(out, b, room, "Server is banned from room")
		}
		return nil
	}
	pdus := make([]*event.PDU, 0, len(raw))
	for _, b := range raw {
		pdu, err := event.ParseIn(b, room.Rules, room.ID)
		switch {
		case err != nil:
			f.refuse(out, b, room, err.Error())
		case !list.Allows(pdu.Sender.Server()):
			// A PDU may come by way of another server; the list is about who takes part.
			f.refuse(out, b, room, "Server is banned from room")
		default:
			pdus = append(pdus, pdu)
		}
	}
	if pdus, err = f.verified(ctx, pdus, out); err != nil || len(pdus) == 0 {
		return err
	}
	return f.deliver(ctx, origin, room, pdus, out)
}

// receiveUnjoined takes in what others have done to memberships of local users in a room that no local user is in: invites that were
// withdrawn, knocks that were denied. The room's owner says which those are.
func (f *Fedin) receiveUnjoined(ctx context.Context, origin id.Server, roomID id.Room, raw []json.RawMessage, out *results) error {
	var pdus []*event.PDU
	for _, b := range raw {
		rules, err := f.unjoinedRules(ctx, roomID, b)
		if err != nil {
			return err
		}
		if rules == nil {
			f.refuse(out, b, nil, "Unknown room")
			continue
		}
		pdu, err := event.Parse(b, rules)
		if err != nil {
			f.refuse(out, b, &roomdb.Room{Rules: rules}, err.Error())
			continue
		}
		pdus = append(pdus, pdu)
	}
	pdus, err := f.verified(ctx, pdus, out)
	if err != nil || len(pdus) == 0 {
		return err
	}
	return f.deliver(ctx, origin, &roomdb.Room{ID: roomID}, pdus, out)
}

// unjoinedRules returns the rules by which to read an event about a local user who was invited or knocked; nil for all
// other events.
func (f *Fedin) unjoinedRules(ctx context.Context, roomID id.Room, raw []byte) (*roomversion.Rules, error) {
	user, err := id.ParseUser(gjson.GetBytes(raw, "state_key").Str)
	if err != nil || !f.isLocal(user) || gjson.GetBytes(raw, "type").Str != memberType {
		return nil, nil //nolint:nilerr // a state key that is no user id is nobody's here
	}
	m, err := f.users.Membership(ctx, user, roomID)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rules, _ := roomversion.Get(m.RoomVersion)
	return rules, nil
}

// verified returns the events whose signatures verify.
func (f *Fedin) verified(ctx context.Context, pdus []*event.PDU, out *results) ([]*event.PDU, error) {
	if len(pdus) == 0 {
		return nil, nil
	}
	problems, err := f.keys.VerifyEvents(ctx, pdus)
	if err != nil {
		return nil, fmt.Errorf("verify events: %w", err)
	}
	good := make([]*event.PDU, 0, len(pdus))
	for i, pdu := range pdus {
		if problems[i] != nil {
			f.metrics.pdus.WithLabelValues("bad_signature").Inc()
			out.add(pdu.ID, problems[i].Error())
			continue
		}
		good = append(good, pdu)
	}
	return good, nil
}

// deliver gives verified events to the room's owner.
func (f *Fedin) deliver(ctx context.Context, origin id.Server, room *roomdb.Room, pdus []*event.PDU, out *results) error {
	req := &roomv1.ReceiveRequest{RoomId: string(room.ID), Origin: string(origin)}
	for _, pdu := range pdus {
		req.Pdus = append(req.Pdus, pdu.JSON)
	}
	var resp *roomv1.ReceiveResponse
	err := f.whenFree(ctx, func() error {
		return roomowner.Call(ctx, f.router, room.ID, func(ctx context.Context, c roomv1.RoomClient) (err error) {
			resp, err = c.Receive(ctx, req)
			return err
		})
	})
	if problem, about := aboutRequest(err); about {
		for _, pdu := range pdus {
			f.metrics.pdus.WithLabelValues("refused").Inc()
			out.add(pdu.ID, problem)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("receive events of %s: %w", room.ID, err)
	}
	for i, pdu := range pdus {
		problem := "The event was not looked at"
		if i < len(resp.Results) {
			problem = resp.Results[i].Error
		}
		label := "taken"
		if problem != "" {
			label = "rejected"
		}
		f.metrics.pdus.WithLabelValues(label).Inc()
		out.add(pdu.ID, problem)
	}
	return nil
}

// aboutRequest says whether an error of the owner is about what it was asked, and would come again.
func aboutRequest(err error) (string, bool) {
	e, ok := merr.As(err)
	if err == nil || !ok || e.Status >= 500 {
		return "", false
	}
	return e.Msg, true
}

// whenFree repeats a call that was refused because the room has too much to do, for a while.
func (f *Fedin) whenFree(ctx context.Context, call func() error) error {
	pause := 200 * time.Millisecond
	for try := 0; ; try++ {
		err := call()
		if !merr.HasCode(err, merr.CodeLimitExceeded) || try == busyRetries {
			return err
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// hashName is the id that the bytes of an event give it, however malformed it is otherwise.
func hashName(canonical []byte, rules *roomversion.Rules) id.Event {
	hash, err := event.ReferenceHash(canonical, rules)
	if err != nil {
		return ""
	}
	if rules.EventID == 2 {
		return id.Event("$" + base64.RawStdEncoding.EncodeToString(hash[:]))
	}
	return id.Event("$" + base64.RawURLEncoding.EncodeToString(hash[:]))
}
