package client

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// sharedWith returns those of the users who are joined to a room that user is joined to.
func (c *Client) sharedWith(ctx context.Context, user id.User, others []id.User) (map[id.User]bool, error) {
	rooms, err := c.sharedRooms(ctx, user, others)
	shared := make(map[id.User]bool, len(rooms))
	for u := range rooms {
		shared[u] = true
	}
	return shared, err
}

// sharedRooms returns, for each of the users, the rooms that both are joined to. It reads each room's state once, and
// only the member events of those asked for.
func (c *Client) sharedRooms(ctx context.Context, user id.User, others []id.User) (map[id.User][]id.Room, error) {
	if len(others) == 0 {
		return nil, nil
	}
	joined, err := c.users.JoinedRooms(ctx, user)
	if err != nil || len(joined) == 0 {
		return nil, err
	}
	ids := make([]id.Room, len(joined))
	for i, r := range joined {
		ids[i] = r.Room
	}
	rooms, err := c.rooms.Rooms(ctx, ids)
	if err != nil {
		return nil, err
	}
	states, err := c.statesOf(ctx, rooms)
	if err != nil {
		return nil, err
	}
	events := make(map[uint32][]int64)
	for _, room := range rooms {
		m := states[state.Ref{Part: room.Part, SID: room.SID}]
		for _, o := range others {
			if nid, ok := m.Get(state.Key{Type: "m.room.member", StateKey: string(o)}); ok {
				events[room.Part] = append(events[room.Part], nid)
			}
		}
	}
	found, err := c.rooms.EventsIn(ctx, events)
	if err != nil {
		return nil, fmt.Errorf("read member events: %w", err)
	}
	shared := make(map[id.User][]id.Room)
	for _, byNID := range found {
		for _, ev := range byNID {
			if ev.StateKey != nil && ev.Membership() == "join" {
				u := id.User(*ev.StateKey)
				shared[u] = append(shared[u], ev.RoomID)
			}
		}
	}
	return shared, nil
}

func (c *Client) statesOf(ctx context.Context, rooms map[id.Room]*roomdb.Room) (map[state.Ref]state.Map, error) {
	refs := make([]state.Ref, 0, len(rooms))
	for _, r := range rooms {
		refs = append(refs, state.Ref{Part: r.Part, SID: r.SID})
	}
	states, err := c.rooms.States(ctx, refs)
	if err != nil {
		return nil, fmt.Errorf("read room states: %w", err)
	}
	return states, nil
}
