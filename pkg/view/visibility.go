package view

import (
	"context"
	"fmt"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// Reader is who reads a room, and what ties them to it now.
type Reader struct {
	User id.User
	// Joined says that the user is in the room, as of snapshot CurrentSID (0 if the caller does not know it).
	Joined     bool
	CurrentSID int64
	// JoinedUntil is the log position up to which the user was a member, for users who left; 0 if they never were.
	JoinedUntil int64
}

// Visible returns the events that the reader may see, in their order. All must belong to one room.
func Visible(ctx context.Context, db *roomdb.DB, r Reader, events []*roomdb.Event) ([]*roomdb.Event, error) {
	v := visibility{db: db, reader: r, states: make(map[int64]standing)}
	if err := v.load(ctx, events); err != nil {
		return nil, err
	}
	seen := events[:0:0]
	for _, e := range events {
		if v.allowed(e) {
			seen = append(seen, e)
		}
	}
	return seen, nil
}

type visibility struct {
	db     *roomdb.DB
	reader Reader
	states map[int64]standing
}

// standing is what a snapshot says of the reader.
type standing struct{ history, membership string }

const (
	worldReadable = "world_readable"
	shared        = "shared"
	invited       = "invited"
	joined        = "joined"
)

// plain says that the event was sent while the reader was in the room as they are now: visible whatever the setting.
func (v *visibility) plain(e *roomdb.Event) bool {
	return v.reader.Joined && v.reader.CurrentSID != 0 && e.SID == v.reader.CurrentSID
}

func (v *visibility) load(ctx context.Context, events []*roomdb.Event) error {
	type pair struct{ history, member int64 }
	pairs := make(map[int64]pair)
	var nids []int64
	for _, e := range events {
		if _, done := pairs[e.SID]; done || v.plain(e) || e.SID == 0 {
			continue
		}
		m, err := v.db.State(ctx, e.Part, e.SID)
		if err != nil {
			return fmt.Errorf("visibility of %s: %w", e.ID, err)
		}
		history, _ := m.Get(state.Key{Type: "m.room.history_visibility"})
		member, _ := m.Get(state.Key{Type: "m.room.member", StateKey: string(v.reader.User)})
		pairs[e.SID] = pair{history, member}
		nids = append(nids, history, member)
	}
	if len(pairs) == 0 {
		return nil
	}
	stored, err := v.db.Events(ctx, events[0].Part, nids)
	if err != nil {
		return fmt.Errorf("visibility: %w", err)
	}
	for sid, p := range pairs {
		s := standing{history: shared}
		if e := stored[p.history]; e != nil {
			s.history = historyOf(e.PDU)
		}
		if e := stored[p.member]; e != nil {
			s.membership = e.Membership()
		}
		v.states[sid] = s
	}
	return nil
}

// allowed is the rule of the section "Room history visibility". For the two events that change what it looks at, the
// more permissive of before and after counts.
func (v *visibility) allowed(e *roomdb.Event) bool {
	if v.plain(e) {
		return true
	}
	s := v.states[e.SID]
	if e.SID == 0 {
		if e.Type != "m.room.create" { // before all others there is no state, and so the default
			return false
		}
		s.history = shared
	}
	if v.permits(s, e) {
		return true
	}
	if e.StateKey == nil {
		return false
	}
	switch {
	case e.Type == "m.room.history_visibility" && *e.StateKey == "":
		return v.permits(standing{historyOf(e.PDU), s.membership}, e)
	case e.Type == "m.room.member" && *e.StateKey == string(v.reader.User):
		return v.permits(standing{s.history, e.Membership()}, e)
	}
	return false
}

func (v *visibility) permits(s standing, e *roomdb.Event) bool {
	switch {
	case s.history == worldReadable, s.membership == "join":
		return true
	case s.history == shared:
		return v.reader.Joined || e.Ord <= v.reader.JoinedUntil
	case s.history == invited:
		return s.membership == "invite"
	}
	return false
}

func historyOf(e *event.PDU) string {
	switch h := gjson.GetBytes(e.Content, "history_visibility").Str; h {
	case worldReadable, shared, invited, joined:
		return h
	}
	return shared
}
