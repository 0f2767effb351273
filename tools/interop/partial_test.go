//go:build interop

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"hanse/tools/mxclient"
)

// crowd is how many local members the room has that is joined.
const crowd = 55

// A room with a crowd is joined without its members (server-server API, PUT /v2/send_join, "omit_members"), and people go on in
// it. When the members have come both have the same.
func TestPartialJoin(t *testing.T) {
	h, s := sides()
	t.Run("Synapse's room", func(t *testing.T) { t.Parallel(); partialJoin(t, s, h, "10") })
	t.Run("Hanse's room", func(t *testing.T) { t.Parallel(); partialJoin(t, h, s, "12") })
}

func partialJoin(t *testing.T, on, from server, version string) {
	ctx := t.Context()
	owner, guest, late := newPerson(t, on), newPerson(t, from), newQuiet(t, from)
	room, err := owner.CreateRoom(ctx, mxclient.NewRoom{RoomVersion: version, Preset: "public_chat"})
	owner.must(t, "create", err)
	members := gather(t, on, room)

	_, err = guest.Join(ctx, room, owner.server.serverName)
	guest.must(t, "join", err)
	said := []string{guest.say(t, room, "at once")}
	for i, m := range members[:6] {
		e, err := m.SendText(ctx, room, fmt.Sprintf("txn%d", i), "meanwhile")
		m.must(t, "say", err)
		said = append(said, e)
	}
	members[6].must(t, "leave", members[6].Leave(ctx, room))
	owner.must(t, "ban", owner.Ban(ctx, room, members[7].id, ""))
	_, err = members[8].SendState(ctx, room, "m.room.member", members[8].id, map[string]string{"membership": "join", "displayname": "Renamed"})
	members[8].must(t, "rename", err)
	_, err = late.Join(ctx, room, owner.server.serverName)
	late.must(t, "join", err)

	for _, e := range said {
		for _, p := range []*person{owner, guest} {
			if p.server.name != "synapse" {
				p.sees(t, room, e)
				continue
			}
			// Its syncs leave some of so many events out.
			eventually(t, "message "+e, func() error { _, err := p.Event(ctx, room, e); return err })
		}
	}
	sameState(t, room, owner, guest)
	want := map[string]string{owner.id: "join", guest.id: "join", late.id: "join"}
	for _, m := range members {
		want[m.id] = "join"
	}
	want[members[6].id], want[members[7].id] = "leave", "ban"
	for _, p := range []*person{owner, guest} {
		eventually(t, "members on "+p.server.name, func() error { return p.hasMembers(ctx, room, want) })
		eventually(t, "a lazy sync on "+p.server.name, func() error { return p.syncsLazily(ctx, room, want) })
	}
	if err := joinedPartially(ctx, from, room); err != nil {
		t.Error(err)
	}
}

// gather registers a crowd and brings it into the room.
func gather(t *testing.T, on server, room string) []*person {
	members := make([]*person, crowd)
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range members {
		members[i] = newQuiet(t, on)
		g.Go(func() error {
			_, err := members[i].Join(t.Context(), room)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return members
}

// hasMembers holds GET /rooms/{roomId}/members against what is wanted.
func (p *person) hasMembers(ctx context.Context, room string, want map[string]string) error {
	var out struct{ Chunk []mxclient.Event }
	if err := p.Do(ctx, mxclient.Call{Method: "GET", Path: "/_matrix/client/v3/rooms/" + room + "/members", Out: &out}); err != nil {
		return err
	}
	got := make(map[string]string)
	for _, e := range out.Chunk {
		var c struct{ Membership string }
		if err := json.Unmarshal(e.Content, &c); err != nil {
			return err
		}
		got[*e.StateKey] = c.Membership
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("%d members, want %d: %v", len(got), len(want), got)
	}
	return nil
}

// syncsLazily makes a first sync of a device that loads members lazily (client-server API, "Lazy-loading room members"): it
// counts all members, and is told of those who have spoken, of few others.
func (p *person) syncsLazily(ctx context.Context, room string, want map[string]string) error {
	filter, err := json.Marshal(map[string]any{"room": map[string]any{
		"rooms": []string{room}, "state": map[string]bool{"lazy_load_members": true}, "timeline": map[string]int{"limit": 10},
	}})
	if err != nil {
		return err
	}
	got, err := p.Sync(ctx, mxclient.SyncRequest{Filter: string(filter)})
	if err != nil {
		return err
	}
	j := got.Rooms.Join[room]
	if j == nil {
		return errors.New("the room is not in the answer")
	}
	var summary struct {
		Joined int `json:"m.joined_member_count"`
	}
	if err := json.Unmarshal(j.Summary, &summary); err != nil {
		return err
	}
	joined := 0
	for _, membership := range want {
		if membership == "join" {
			joined++
		}
	}
	if summary.Joined != joined {
		return fmt.Errorf("%d joined members, want %d", summary.Joined, joined)
	}
	var told []string
	for _, e := range slices.Concat(j.State.Events, j.Timeline.Events) {
		if e.Type == "m.room.member" {
			told = append(told, *e.StateKey)
		}
	}
	if len(told) > 25 {
		return fmt.Errorf("told of %d members", len(told))
	}
	for _, e := range j.Timeline.Events {
		if !slices.Contains(told, e.Sender) {
			return fmt.Errorf("not told who %s is", e.Sender)
		}
	}
	return nil
}

// joinedPartially makes sure that the join was one without members, and is whole now.
func joinedPartially(ctx context.Context, on server, room string) error {
	if on.name == "synapse" {
		var rows [2]int
		err := other.query(`SELECT json_array((SELECT count(*) FROM un_partial_stated_room_stream WHERE room_id = ?1),
			(SELECT count(*) FROM partial_state_rooms WHERE room_id = ?1))`, &rows, room)
		if err == nil && rows != [2]int{1, 0} {
			err = fmt.Errorf("Synapse's join was made whole %d times, is partial %d times", rows[0], rows[1])
		}
		return err
	}
	db, err := shards()
	if err != nil {
		return err
	}
	for _, pool := range db.All() {
		var whole int64
		err := pool.QueryRow(ctx, `SELECT coalesce(max(full_pos), 0) FROM room WHERE room_id = $1`, room).Scan(&whole)
		if err != nil || whole > 0 {
			return err
		}
	}
	return errors.New("Hanse's join was not one without members, or is not whole")
}
