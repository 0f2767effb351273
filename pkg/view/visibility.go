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
	// JoinedUntil is the place up to which the user was a member, for users who left; 0 if they never were.
	JoinedUntil roomdb.Place
}

// Visible returns the events that the reader may see, in their order. All must belong to one room. In timeline order
// they cost least: see Bases.
func Visible(ctx context.Context, db *roomdb.DB, r Reader, events []*roomdb.Event) ([]*roomdb.Event, error) {
	return visible(ctx, db, r, events)
}

// source is where snapshots and events come from.
type source interface {
	State(ctx context.Context, part uint32, sid int64) (state.Map, error)
	Events(ctx context.Context, part uint32, nids []int64) (map[int64]*roomdb.Event, error)
}

func visible(ctx context.Context, db source, r Reader, events []*roomdb.Event) ([]*roomdb.Event, error) {
	v := visibility{db: db, reader: r}
	standings, err := v.load(ctx, events)
	if err != nil {
		return nil, err
	}
	seen := events[:0:0]
	for i, e := range events {
		if v.allowed(e, standings[i]) {
			seen = append(seen, e)
		}
	}
	return seen, nil
}

// Bases returns the snapshots that Visible looks into for events in timeline order: callers load those of many rooms
// together. Where an event refers to nothing but the one before it, the state before the one is the state after the
// other, and what that says follows without a look.
func Bases(events []*roomdb.Event) []int64 {
	var sids []int64
	var prev *roomdb.Event
	for _, e := range events {
		if e.SID != 0 && !follows(e, prev) {
			sids = append(sids, e.SID)
		}
		prev = e
	}
	return sids
}

// follows says whether the state before e is the state after prev, as nothing else came before e. Of history that was
// fetched, other servers have told the states, and each is looked at.
func follows(e, prev *roomdb.Event) bool {
	return prev != nil && prev.Flags == 0 && prev.Ord > 0 && len(e.PrevEvents) == 1 && len(e.Prev) == 1 && e.Prev[0] == prev.NID &&
		(prev.SID != 0 || isCreate(prev))
}

func isCreate(e *roomdb.Event) bool { return e.Is("m.room.create", "") }

type visibility struct {
	db     source
	reader Reader
}

// standing is what the state at an event says of the reader.
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

// load returns the standing before each of the events.
func (v *visibility) load(ctx context.Context, events []*roomdb.Event) ([]standing, error) {
	standings := make([]standing, len(events))
	states, err := v.states(ctx, events)
	if err != nil {
		return nil, err
	}
	for i, e := range events {
		switch s, looked := states[e.SID]; {
		case looked:
			standings[i] = s
		case e.SID == 0:
			standings[i] = standing{history: shared} // before all others there is no state, and so the default
		case i > 0 && follows(e, events[i-1]):
			standings[i] = v.after(standings[i-1], events[i-1])
		}
	}
	return standings, nil
}

// after returns the standing after an event.
func (v *visibility) after(s standing, e *roomdb.Event) standing {
	switch {
	case e.Is("m.room.history_visibility", ""):
		s.history = historyOf(e.PDU)
	case e.Is("m.room.member", string(v.reader.User)):
		s.membership = e.Membership()
	}
	return s
}

// states looks into the snapshots that must be looked into.
func (v *visibility) states(ctx context.Context, events []*roomdb.Event) (map[int64]standing, error) {
	type pair struct{ history, member int64 }
	pairs := make(map[int64]pair)
	var nids []int64
	for i, e := range events {
		// What follows a plain event needs the standing there, though the event itself does not.
		if _, done := pairs[e.SID]; done || e.SID == 0 || i > 0 && follows(e, events[i-1]) || v.plain(e) && !v.leads(events, i) {
			continue
		}
		m, err := v.db.State(ctx, e.Part, e.SID)
		if err != nil {
			return nil, fmt.Errorf("visibility of %s: %w", e.ID, err)
		}
		history, _ := m.Get(state.Key{Type: "m.room.history_visibility"})
		member, _ := m.Get(state.Key{Type: "m.room.member", StateKey: string(v.reader.User)})
		pairs[e.SID] = pair{history, member}
		nids = append(nids, history, member)
	}
	if len(pairs) == 0 {
		return nil, nil
	}
	stored, err := v.db.Events(ctx, events[0].Part, nids)
	if err != nil {
		return nil, fmt.Errorf("visibility: %w", err)
	}
	states := make(map[int64]standing, len(pairs))
	for sid, p := range pairs {
		s := standing{history: shared}
		if e := stored[p.history]; e != nil {
			s.history = historyOf(e.PDU)
		}
		if e := stored[p.member]; e != nil {
			s.membership = e.Membership()
		}
		states[sid] = s
	}
	return states, nil
}

// leads says whether an event that is not plain follows event i without a look at its own snapshot.
func (v *visibility) leads(events []*roomdb.Event, i int) bool {
	for i++; i < len(events) && follows(events[i], events[i-1]); i++ {
		if !v.plain(events[i]) {
			return true
		}
	}
	return false
}

// allowed is the rule of the section "Room history visibility". For the two events that change what it looks at, the
// more permissive of before and after counts.
func (v *visibility) allowed(e *roomdb.Event, s standing) bool {
	if v.plain(e) {
		return true
	}
	if e.SID == 0 && !isCreate(e) {
		return false
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
		return v.reader.Joined || v.reader.JoinedUntil != 0 && e.Place() <= v.reader.JoinedUntil
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
