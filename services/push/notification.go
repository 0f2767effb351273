package push

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
)

// formatEventIDOnly is the format that leaves out what the event says (client-server API, "Push Notifications").
const formatEventIDOnly = "event_id_only"

// notification is the body of a request (Push Gateway API, POST /_matrix/push/v1/notify).
type notification struct {
	EventID     string          `json:"event_id,omitempty"`
	RoomID      string          `json:"room_id,omitempty"`
	Type        string          `json:"type,omitempty"`
	Sender      string          `json:"sender,omitempty"`
	SenderName  string          `json:"sender_display_name,omitempty"`
	RoomName    string          `json:"room_name,omitempty"`
	RoomAlias   string          `json:"room_alias,omitempty"`
	UserIsTaget bool            `json:"user_is_target,omitempty"`
	Membership  string          `json:"membership,omitempty"`
	Prio        string          `json:"prio,omitempty"`
	Content     json.RawMessage `json:"content,omitempty"`
	Counts      *counts         `json:"counts,omitempty"`
	Devices     []device        `json:"devices"`
}

type counts struct {
	// Unread is left out if it is 0, as the specification asks; clients without it show none.
	Unread int64 `json:"unread,omitempty"`
}

type device struct {
	AppID   string `json:"app_id"`
	Pushkey string `json:"pushkey"`
	// Set is in seconds since 1970.
	Set    int64                      `json:"pushkey_ts"`
	Data   map[string]json.RawMessage `json:"data"`
	Tweaks json.RawMessage            `json:"tweaks,omitempty"`
}

// noBadge is the field by which a client counts by itself (MSC4076).
const noBadge = "org.matrix.msc4076.disable_badge_count"

// countsItself says whether the client does not want to be told counts.
func (p *pusher) countsItself() bool { return string(p.data[noBadge]) == "true" }

// notification writes what a pusher is told of an item; nil if there is nothing to tell any more.
func (b *box) notification(ctx context.Context, p *pusher, it *item, badge int64) ([]byte, error) {
	d := device{AppID: p.app, Pushkey: p.pushkey, Set: p.set / 1000, Data: make(map[string]json.RawMessage, len(p.data))}
	for name, value := range p.data {
		if name != "url" {
			d.Data[name] = value
		}
	}
	n := notification{}
	if !p.countsItself() {
		n.Counts = &counts{badge}
	}
	if it.badge() {
		if n.Counts == nil || badge == p.badge {
			return nil, nil
		}
	} else if there, err := b.describe(ctx, p, it, &n); err != nil || !there {
		return nil, err
	}
	if !it.badge() && gjson.GetBytes(p.data["format"], "@this").Str != formatEventIDOnly {
		d.Tweaks = it.tweaks
	}
	n.Devices = []device{d}
	body, err := json.Marshal(map[string]*notification{"notification": &n})
	if err != nil {
		return nil, fmt.Errorf("write notification: %w", err)
	}
	return body, nil
}

// describe fills in what a notification says of an event; false if the user is not to be notified of it any more.
func (b *box) describe(ctx context.Context, p *pusher, it *item, n *notification) (there bool, err error) {
	if time.Since(time.UnixMilli(it.created)) > b.s.cfg.GiveUp {
		return false, nil
	}
	var e *roomdb.Event
	var outside *invite
	if it.nid == 0 {
		if outside, err = b.inviteOf(ctx, p.user, it); err != nil || outside == nil {
			return false, err
		}
		e = &roomdb.Event{PDU: outside.pdu}
	} else {
		events, err := b.s.rooms.Events(ctx, uint32(it.roomPart), []int64{it.nid})
		if err != nil {
			return false, err
		}
		if e = events[it.nid]; e == nil || e.RedactedBy != 0 {
			return false, nil
		}
		if seen, err := b.sees(ctx, p.user, e); err != nil || !seen {
			return false, err
		}
	}
	n.EventID, n.RoomID = it.event, it.room
	// High priority wakes the device: for what makes a sound or is highlighted, or may do so once it is decrypted.
	n.Prio = "low"
	if e.Type == "m.room.encrypted" || gjson.GetBytes(it.tweaks, "sound").Exists() || gjson.GetBytes(it.tweaks, "highlight").Bool() {
		n.Prio = "high"
	}
	if gjson.GetBytes(p.data["format"], "@this").Str == formatEventIDOnly {
		return true, nil
	}
	n.Type, n.Sender, n.Content = e.Type, string(e.Sender), json.RawMessage(e.Content)
	if e.Type == "m.room.member" && e.StateKey != nil {
		n.UserIsTaget, n.Membership = *e.StateKey == string(p.user), e.Membership()
	}
	if outside != nil {
		outside.names(n)
		return true, nil
	}
	return true, b.names(ctx, e, n)
}

// sees says whether a user may see an event. An event that was sent before the user joined can arrive after the join.
func (b *box) sees(ctx context.Context, user id.User, e *roomdb.Event) (bool, error) {
	if e.Is("m.room.member", string(user)) {
		return true, nil // invites above all: this server may know nothing else of their room
	}
	seen, err := view.Visible(ctx, b.s.rooms, view.Reader{User: user, Joined: true}, []*roomdb.Event{e})
	return len(seen) > 0, err
}

// names fills in what the room and the sender are called.
func (b *box) names(ctx context.Context, e *roomdb.Event, n *notification) error {
	rows, err := b.s.rooms.RoomsByNID(ctx, []roomdb.RoomKey{{Part: e.Part, NID: e.RoomNID}})
	if err != nil {
		return err
	}
	row := rows[id.Room(n.RoomID)]
	if row == nil {
		return nil
	}
	m, err := b.s.rooms.State(ctx, row.Part, row.SID)
	if err != nil {
		return err
	}
	into := map[state.Key]func(content []byte){
		{Type: "m.room.name"}:                               func(c []byte) { n.RoomName = gjson.GetBytes(c, "name").Str },
		{Type: "m.room.canonical_alias"}:                    func(c []byte) { n.RoomAlias = gjson.GetBytes(c, "alias").Str },
		{Type: "m.room.member", StateKey: string(e.Sender)}: func(c []byte) { n.SenderName = gjson.GetBytes(c, "displayname").Str },
	}
	nids := make(map[int64]func([]byte), len(into))
	ask := make([]int64, 0, len(into))
	for k, fn := range into {
		if nid, ok := m.Get(k); ok {
			nids[nid] = fn
			ask = append(ask, nid)
		}
	}
	events, err := b.s.rooms.Events(ctx, row.Part, ask)
	if err != nil {
		return err
	}
	for nid, fn := range nids {
		if events[nid] != nil {
			fn(events[nid].Content)
		}
	}
	return nil
}
