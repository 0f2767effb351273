package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb/eventsql"
	"hanse/pkg/state"
)

// wholeState is the state before our join, with its members counted.
type wholeState struct {
	m               state.Map
	joined, invited int32
	servers         map[id.Server]int32
	local           []id.User // local users in it
}

// whole makes a state of a listing. What came with the join stays as it came: it was all that we knew when we trusted the
// server with our join, and another one may see the room otherwise. Rejected events are no part of a state.
func (f *fill) whole(ctx context.Context, l *stateListing) (*wholeState, error) {
	pinned, err := f.s.db.State(ctx, f.p.part, f.join.SID)
	if err != nil {
		return nil, err
	}
	st := &wholeState{servers: make(map[id.Server]int32)}
	var entries []state.Entry
	add := func(key state.Key, nid int64, membership string) {
		entries = append(entries, state.Entry{Key: key, NID: nid})
		if key.Type == typeMember {
			st.count(f.s, id.User(key.StateKey), membership)
		}
	}
	seen := make(map[state.Key]bool, len(l.state))
	for _, ids := range [][]id.Event{l.after, l.state} { // what came after stands above what was before
		for chunk := range slices.Chunk(ids, listChunk) {
			err := f.listed(ctx, chunk, func(key state.Key, nid int64, membership string) {
				if !pinned.Has(key) && !seen[key] {
					seen[key] = true
					add(key, nid, membership)
				}
			})
			if err != nil {
				return nil, err
			}
		}
	}
	var nids []int64
	for key, nid := range pinned.All() {
		if key.Type == typeMember {
			nids = append(nids, nid)
			continue
		}
		add(key, nid, "")
	}
	members, err := f.s.events(ctx, f.p, nids)
	if err != nil {
		return nil, err
	}
	for _, e := range members {
		add(state.Key(e.Tuple()), e.NID, e.Membership())
	}
	st.m = state.New(func(yield func(state.Key, int64) bool) {
		for _, e := range entries {
			if !yield(e.Key, e.NID) {
				return
			}
		}
	})
	if !st.m.Has(state.Key{Type: typeCreate}) {
		return nil, errors.New("the state has no create event")
	}
	return st, nil
}

// listed reads what of some events are state events.
func (f *fill) listed(ctx context.Context, ids []id.Event, each func(key state.Key, nid int64, membership string)) error {
	rows, err := f.s.shards.For(f.p.part).Query(ctx, eventsql.Listed, int32(f.p.part), f.nid, ids)
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	var nid int64
	var typ string
	var stateKey *string
	var flags int32
	var json []byte
	_, err = pgx.ForEachRow(rows, []any{&nid, &typ, &stateKey, &flags, &json}, func() error {
		if stateKey == nil || flags&flagRejected != 0 {
			return nil
		}
		membership := ""
		if typ == typeMember {
			membership = gjson.GetBytes(json, "content.membership").Str
		}
		each(state.Key{Type: typ, StateKey: *stateKey}, nid, membership)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	return nil
}

func (st *wholeState) count(s *Service, user id.User, membership string) {
	switch membership {
	case "join":
		st.joined++
		st.servers[user.Server()]++
	case "invite":
		st.invited++
	}
	if s.localUser(user) {
		st.local = append(st.local, user)
	}
}
