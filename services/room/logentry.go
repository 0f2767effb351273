package room

import (
	"context"
	"time"

	"github.com/tidwall/gjson"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// logEntry describes a delivered event to the readers of the log. moved are the members that the event moved in the
// current state.
func (w *writer) logEntry(ctx context.Context, e *newEvent, before int64, moved []movedMember, local bool) (*entry, error) {
	pdu := e.pdu
	body := &logv1.Event{
		Nid: e.nid, EventId: string(pdu.ID), RoomVersion: w.r.rules.Version, Type: pdu.Type, StateKey: pdu.StateKey,
		Sender: string(pdu.Sender), OriginServerTs: pdu.OriginServerTS, Sid: e.sid, CurrentBefore: before,
		CurrentAfter: w.h.sid, ReplacesNid: e.replaces, Local: local, DeviceId: e.why.device, TxnId: e.why.txn,
		Hole: e.lacking,
	}
	if pdu.Type == typeMember && pdu.StateKey != nil {
		body.Membership = pdu.Membership()
		if err := w.describeMember(ctx, e, body, local); err != nil {
			return nil, err
		}
	}
	if pdu.IsState() {
		nid, _ := w.h.state.Get(state.Key{Type: pdu.Type, StateKey: *pdu.StateKey})
		body.Overruled = nid != e.nid && !e.current
	}
	for i := range moved {
		if m := &moved[i]; m.nid != e.nid && w.s.localUser(m.user) {
			body.Moved = append(body.Moved, m.proto())
		}
	}
	if len(w.c.redactions) > 0 && w.c.redactions[len(w.c.redactions)-1].by == e.nid {
		body.Redacts = string(pdu.Redacts)
	}
	if err := w.describeContent(ctx, e, body); err != nil {
		return nil, err
	}
	e.notifySeq = w.h.notifySeq
	body.NotifySeq = e.notifySeq
	w.h.touch(pdu.Type, time.Now())
	body.ActiveTs = w.h.active
	stored, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	if body.Json = pdu.JSON; e.redactedBy != 0 {
		redacted, err := pdu.Redacted()
		if err != nil {
			return nil, err
		}
		body.Json, body.Redacted = redacted.JSON, true
	}
	return &entry{
		kind: roomdb.KindEvent, event: e, before: before, after: w.h.sid, body: stored,
		bus: &logv1.Entry{RoomNid: w.r.nid, RoomId: string(w.r.id), Body: &logv1.Entry_Event{Event: body}},
	}, nil
}

// touch notes when an event came: lists of rooms are ordered by that (MSC4186, "Activity ordering" and bump_stamp).
func (h *head) touch(typ string, now time.Time) {
	h.active = max(h.active, now.UnixMilli())
	if roomdb.Bumps(typ) {
		h.bumped = h.active
	}
}

// describeMember fills in what readers need of a member event: what the user was before, and which server must hear
// of it although nobody of it may be in the room afterwards: that of somebody whose membership, invite or knock others have
// ended. Of an invite that server has heard when it signed it.
func (w *writer) describeMember(ctx context.Context, e *newEvent, body *logv1.Event, local bool) error {
	target := id.User(*e.pdu.StateKey)
	if e.replaces != 0 {
		old, err := w.s.event(ctx, w.r.p, e.replaces)
		if err != nil {
			return err
		}
		body.PrevMembership = old.Membership()
	}
	if local && !w.s.localUser(target) && w.ends(body) {
		body.AlsoTo = []string{string(target.Server())}
	}
	return nil
}

// ends says whether a member event ends what the user was before. In a room whose members we lack nobody knows.
func (w *writer) ends(body *logv1.Event) bool {
	if body.Membership != "leave" && body.Membership != "ban" {
		return false
	}
	switch body.PrevMembership {
	case "join", "invite", "knock":
		return true
	}
	return body.PrevMembership == "" && w.h.partial()
}

// describeContent finds mentions and the thread, and counts the event if it notifies.
func (w *writer) describeContent(ctx context.Context, e *newEvent, body *logv1.Event) error {
	content := gjson.ParseBytes(e.pdu.Content)
	if e.relate(content); e.relation != nil && e.relation.relType == event.Thread {
		e.thread = string(e.relation.parent)
		body.Thread = e.thread
	}
	if mentions := content.Get(`m\.mentions`); mentions.Exists() && pushrule.MayMention(e.pdu) {
		if err := w.describeMentions(ctx, e.pdu, mentions, body); err != nil {
			return err
		}
	}
	e.mentions = body.Mentions
	if body.MentionsRoom {
		e.mentions = append(body.Mentions[:len(body.Mentions):len(body.Mentions)], "")
	}
	if pushrule.NotifiesAll(e.pdu, body.MentionsRoom) {
		w.h.notifySeq++
	}
	return nil
}

// describeMentions finds the local users whom an event mentions, and whether it mentions the room.
func (w *writer) describeMentions(ctx context.Context, pdu *event.PDU, mentions gjson.Result, body *logv1.Event) (err error) {
	for _, m := range mentions.Get("user_ids").Array() {
		user := id.User(m.Str)
		if user != pdu.Sender && w.s.localUser(user) && w.h.state.Has(state.Key{Type: typeMember, StateKey: m.Str}) {
			body.Mentions = append(body.Mentions, m.Str)
		}
	}
	if mentions.Get("room").Type == gjson.True {
		body.MentionsRoom, err = w.mayNotifyRoom(ctx, pdu.Sender)
	}
	return err
}

func (w *writer) mayNotifyRoom(ctx context.Context, sender id.User) (bool, error) {
	found, err := w.s.authEvents(ctx, w.r.p, w.h.state, []event.Tuple{{Type: typePowerLevels}})
	if err != nil {
		return false, err
	}
	required, malformed := auth.PowerLevelsOf(found.lookup).Notification("room")
	return malformed == nil && auth.PowerOf(sender, found.lookup) >= required, nil // malformed levels grant nothing
}
