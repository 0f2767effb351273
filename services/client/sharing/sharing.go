package sharing

import (
	"context"
	"fmt"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

// Sharing knows who shares rooms.
type Sharing struct{ *core.Core }

// New makes a Sharing.
func New(c *core.Core) *Sharing { return &Sharing{c} }

// SharedWith returns those of the users who are joined to a room that user is joined to.
func (c *Sharing) SharedWith(ctx context.Context, user id.User, others []id.User) (map[id.User]bool, error) {
	rooms, err := c.SharedRooms(ctx, user, others)
	shared := make(map[id.User]bool, len(rooms))
	for u := range rooms {
		shared[u] = true
	}
	return shared, err
}

// SharedRooms returns, for each of the users, the rooms that both are joined to.
func (c *Sharing) SharedRooms(ctx context.Context, user id.User, others []id.User) (map[id.User][]id.Room, error) {
	shared := make(map[id.User][]id.Room)
	err := c.eachShared(ctx, user, others, func(u id.User, m meeting) { shared[u] = append(shared[u], m.room.ID) })
	return shared, err
}

// meeting is a room that two users are joined to: the numbers of their membership events, the first user's is own.
type meeting struct {
	room     *roomdb.Room
	own, nid int64
}

// eachShared calls fn for each of the users and each room that both are joined to. It reads each room's state once, and only
// the member events of those asked for.
func (c *Sharing) eachShared(ctx context.Context, user id.User, others []id.User, fn func(id.User, meeting)) error {
	if len(others) == 0 {
		return nil
	}
	joined, err := c.Users.JoinedRooms(ctx, user)
	if err != nil || len(joined) == 0 {
		return err
	}
	ids := make([]id.Room, len(joined))
	for i, r := range joined {
		ids[i] = r.Room
	}
	rooms, err := c.Rooms.Rooms(ctx, ids)
	if err != nil {
		return err
	}
	states, err := c.States(ctx, rooms)
	if err != nil {
		return err
	}
	own := make(map[id.Room]int64)
	events := make(map[uint32][]int64)
	for _, room := range rooms {
		m := states[state.Ref{Part: room.Part, SID: room.SID}]
		before := len(events[room.Part])
		for _, o := range others {
			if nid, ok := m.Get(memberKey(o)); ok {
				events[room.Part] = append(events[room.Part], nid)
			}
		}
		if nid, ok := m.Get(memberKey(user)); ok && len(events[room.Part]) > before {
			own[room.ID] = nid
			events[room.Part] = append(events[room.Part], nid)
		}
	}
	found, err := c.Rooms.EventsIn(ctx, events)
	if err != nil {
		return fmt.Errorf("read member events: %w", err)
	}
	in := func(ev *roomdb.Event) bool { return ev != nil && ev.StateKey != nil && ev.Membership() == "join" }
	for _, byNID := range found {
		for nid, ev := range byNID {
			if !in(ev) || !in(byNID[own[ev.RoomID]]) || nid == own[ev.RoomID] && !slices.Contains(others, user) {
				continue // the index of memberships may be behind the room's state
			}
			fn(id.User(*ev.StateKey), meeting{rooms[ev.RoomID], own[ev.RoomID], nid})
		}
	}
	return nil
}

func memberKey(u id.User) state.Key { return state.Key{Type: core.TypeMember, StateKey: string(u)} }

// States returns the states of rooms.
func (c *Sharing) States(ctx context.Context, rooms map[id.Room]*roomdb.Room) (map[state.Ref]state.Map, error) {
	refs := make([]state.Ref, 0, len(rooms))
	for _, r := range rooms {
		refs = append(refs, state.Ref{Part: r.Part, SID: r.SID})
	}
	states, err := c.Rooms.States(ctx, refs)
	if err != nil {
		return nil, fmt.Errorf("read room states: %w", err)
	}
	return states, nil
}

// Sightings says of users of other servers in which room user sees them, if there is one: in the smallest.
func (c *Sharing) Sightings(ctx context.Context, user id.User, others []id.User) (map[id.User]userdb.Sighting, error) {
	found := make(map[id.User]meeting)
	err := c.eachShared(ctx, user, others, func(u id.User, m meeting) {
		if old, ok := found[u]; !ok || m.room.Joined < old.room.Joined {
			found[u] = m
		}
	})
	out := make(map[id.User]userdb.Sighting, len(found))
	for u, s := range found {
		out[u] = userdb.Sighting{Part: s.room.Part, Room: s.room.NID, NID: s.nid, By: user, ByNID: s.own}
	}
	return out, err
}

// InSight returns those of the lists of which no change can have been missed: the user's server has told us of changes ever
// since they were fetched, as a room has been shared all the time (server-server API, "Device Management"). A membership that
// was replaced proves nothing, not even by one that says the same: somebody may have been away in between.
func (c *Sharing) InSight(ctx context.Context, lists map[id.User]userdb.RemoteList) (map[id.User]bool, error) {
	var keys []roomdb.RoomKey
	for _, l := range lists {
		if key := (roomdb.RoomKey{Part: l.Seen.Part, NID: l.Seen.Room}); !l.Stale && l.Seen.Room != 0 && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	rooms, err := c.Rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return nil, err
	}
	states, err := c.States(ctx, rooms)
	if err != nil {
		return nil, err
	}
	now := make(map[roomdb.RoomKey]state.Map, len(rooms))
	for _, r := range rooms {
		now[r.Key()] = states[state.Ref{Part: r.Part, SID: r.SID}]
	}
	in := make(map[id.User]bool, len(lists))
	for u, l := range lists {
		m, ok := now[roomdb.RoomKey{Part: l.Seen.Part, NID: l.Seen.Room}]
		if l.Stale || !ok {
			continue
		}
		nid, _ := m.Get(memberKey(u))
		by, _ := m.Get(memberKey(l.Seen.By))
		in[u] = nid == l.Seen.NID && by == l.Seen.ByNID
	}
	return in, nil
}
