package fedin

import (
	"bytes"
	"context"
	"slices"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

const (
	memberType = "m.room.member"
	// fewMembers is up to how many member events are sent though the other server can do without: asking for them costs
	// both sides more.
	fewMembers = 50
	// maxHeroes is how many members name a room that has no name (client-server API, "m.heroes"), heroStep how many are
	// looked at at a time, and heroScan at most.
	maxHeroes, heroStep, heroScan = 5, 32, 1024
)

// joinAnswer is what PUT /send_join answers: the state before the join, the auth chains of it and of the join, and the
// servers in the room. If the other server can do without the members, they are omitted, and nothing here depends on how
// many there are.
func (f *Fedin) joinAnswer(ctx context.Context, room *roomdb.Room, resp *roomv1.SendMembershipResponse, q *request) (*bytes.Buffer, error) {
	join, err := f.rooms.EventByID(ctx, room, id.Event(resp.EventId))
	if err != nil {
		return nil, err
	}
	m, err := f.rooms.State(ctx, room.Part, resp.Sid)
	if err != nil {
		return nil, err
	}
	may := q.URL.Query().Get("omit_members") == "true"
	nids, omitted, err := f.joinState(ctx, room.Part, m, join.Sender, may)
	if err != nil {
		return nil, err
	}
	state, err := f.rooms.InOrder(ctx, room.Part, nids)
	if err != nil {
		return nil, err
	}
	chain, err := f.rooms.AuthChain(ctx, room.Key(), append(slices.Clone(nids), join.NID), maxChain)
	if err != nil {
		return nil, tooLong(err)
	}
	if chain, err = f.withCreate(ctx, room, chain); err != nil {
		return nil, err
	}
	if may {
		// Events that are in the state may be left out of the chain.
		twice := make(map[int64]bool, len(nids))
		for _, nid := range nids {
			twice[nid] = true
		}
		chain = slices.DeleteFunc(chain, func(nid int64) bool { return twice[nid] })
	}
	chained, err := f.rooms.InOrder(ctx, room.Part, chain)
	if err != nil {
		return nil, err
	}
	servers, err := f.rooms.ServersBefore(ctx, room.Part, room.NID, q.origin)
	if err != nil {
		return nil, err
	}
	b := httpx.Buffer()
	b.WriteString(`{"members_omitted":`)
	if omitted {
		b.WriteString(`true,"origin":`)
	} else {
		b.WriteString(`false,"origin":`)
	}
	b.Write(quoted(string(q.server)))
	b.WriteString(`,"event":`)
	b.Write(resp.Event)
	writeEvents(b, `,"state":`, state)
	writeEvents(b, `,"auth_chain":`, chained)
	b.WriteString(`,"servers_in_room":[`)
	for i, s := range servers {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quoted(string(s)))
	}
	b.WriteString("]}")
	return b, nil
}

// joinState picks what of a state answers a join: all, or (omit_members) what is no member event, the joining user's own
// membership, and those of members who name the room if nothing else does.
func (f *Fedin) joinState(ctx context.Context, part uint32, m state.Map, user id.User, may bool) (nids []int64, omitted bool, err error) {
	for _, nid := range m.Except(memberType) {
		nids = append(nids, nid)
	}
	if !may || m.Len()-len(nids) <= fewMembers {
		for _, nid := range m.Type(memberType) {
			nids = append(nids, nid)
		}
		return nids, false, nil
	}
	if nid, ok := m.Get(stateKey(memberType, string(user))); ok {
		nids = append(nids, nid)
	}
	if m.Has(stateKey("m.room.name", "")) || m.Has(stateKey("m.room.canonical_alias", "")) {
		return nids, true, nil
	}
	heroes, err := f.heroes(ctx, part, m, user)
	return append(nids, heroes...), true, err
}

// heroes finds some members other than the user; those who are in the room, or invited, first.
func (f *Fedin) heroes(ctx context.Context, part uint32, m state.Map, user id.User) ([]int64, error) {
	var all []int64
	for key, nid := range m.Type(memberType) {
		if key.StateKey != string(user) {
			all = append(all, nid)
		}
		if len(all) == heroScan {
			break
		}
	}
	var present, gone []int64
	for step := range slices.Chunk(all, heroStep) {
		events, err := f.rooms.InOrder(ctx, part, step)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if is := e.Membership(); is == "join" || is == "invite" {
				present = append(present, e.NID)
			} else {
				gone = append(gone, e.NID)
			}
		}
		if len(present) >= maxHeroes {
			break
		}
	}
	if len(present) == 0 {
		present = gone
	}
	return present[:min(len(present), maxHeroes)], nil
}
