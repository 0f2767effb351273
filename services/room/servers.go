package room

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// How many members of each server a room has (room_server) follows from its state. When a room is joined, and when it
// becomes whole, thousands of counts may change: what can be known before is written before, a few at a time, and the
// change itself writes what is then still missing. So it does not matter what an attempt that was interrupted left.

const (
	// serversChunk is how many counts of servers one change writes, serversAhead how many such changes are queued at a time.
	serversChunk, serversAhead = 100, 4
	// maxJoinServers bounds the servers of a room that we believe a join answer.
	maxJoinServers = 100_000
)

// uncounted returns by how much the stored counts of a room's servers must change to be these.
func (r *room) uncounted(ctx context.Context, servers map[id.Server]int32) (map[id.Server]int32, error) {
	rows, err := r.s.shards.For(r.p.part).Query(ctx, sqlRoomServers, int32(r.p.part), r.nid)
	if err != nil {
		return nil, fmt.Errorf("read servers of a room: %w", err)
	}
	more := make(map[id.Server]int32, len(servers))
	maps.Copy(more, servers)
	var server id.Server
	var n int32
	_, err = pgx.ForEachRow(rows, []any{&server, &n}, func() error {
		if more[server] -= n; more[server] == 0 {
			delete(more, server)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read servers of a room: %w", err)
	}
	return more, nil
}

// countServers changes counts, a few in a change, for which others do not wait. lock returns nil once they are of no use
// any more.
func (s *Service) countServers(ctx context.Context, more map[id.Server]int32, lock func() (*room, error)) error {
	var queued []*change
	for names := range slices.Chunk(slices.Collect(maps.Keys(more)), serversChunk) {
		r, err := lock()
		if err != nil || r == nil {
			return err
		}
		w := s.newWriter(ctx, r)
		w.c.bulk, w.c.servers = true, make(map[id.Server]int32, len(names))
		for _, server := range names {
			w.c.servers[server] = more[server]
		}
		err = w.put()
		r.unlock()
		if err != nil {
			return err
		}
		if queued = append(queued, w.c); len(queued) > serversAhead {
			if err := queued[0].wait(ctx); err != nil {
				return err
			}
			queued = queued[1:]
		}
	}
	for _, c := range queued {
		if err := c.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// said are the servers that are in the room by a join answer that omits members.
func (s *Service) said(answer *joinAnswer) map[id.Server]int32 {
	said := make(map[id.Server]int32, len(answer.Servers))
	for _, name := range answer.Servers[:min(len(answer.Servers), maxJoinServers)] {
		if server, err := id.ParseServer(name); err == nil && !s.servers.IsLocal(server) {
			said[server] = 1
		}
	}
	return said
}

// noteServers counts the servers that are said to be in a room, with one member each, before the join is stored: in a
// large room they are too many for one change. Nobody reads the counts of a room that no local user is in.
func (s *Service) noteServers(ctx context.Context, roomID id.Room, answer *joinAnswer) error {
	outside := func() (*room, error) {
		r, err := s.lockRoom(ctx, roomID)
		if err == nil && r.head.joinedLocal > 0 {
			r.unlock()
			return nil, nil
		}
		return r, err
	}
	r, err := outside()
	if err != nil || r == nil {
		return err
	}
	more, err := r.uncounted(ctx, s.said(answer))
	r.unlock()
	if err != nil || len(more) <= serversChunk {
		return err
	}
	return s.countServers(ctx, more, outside)
}

// countAhead raises the counts of the room's servers to what they were before our join; the change that makes the room
// whole then writes what has changed since. Until that change servers are only ever added to those that hear of the room.
func (f *fill) countAhead(ctx context.Context, st *wholeState) error {
	still := func() (*room, error) {
		r, err := f.lock(ctx)
		if err != nil {
			return nil, err
		}
		if err := f.still(r); err != nil { // what is counted would be another stay
			r.unlock()
			return nil, err
		}
		return r, nil
	}
	r, err := still()
	if err != nil {
		return err
	}
	more, err := r.uncounted(ctx, st.servers)
	r.unlock()
	if err != nil {
		return err
	}
	maps.DeleteFunc(more, func(_ id.Server, n int32) bool { return n < 0 })
	return f.s.countServers(ctx, more, still)
}

// recount makes the counts those of a state with all members, if there are any from before. own is the event of the state
// that is not stored yet.
func (w *writer) recount(ctx context.Context, m state.Map, own *newEvent) error {
	if err := w.r.waitCommitted(ctx); err != nil {
		return err
	}
	before, err := w.r.uncounted(ctx, nil)
	if err != nil || len(before) == 0 {
		return err
	}
	var nids []int64
	for _, nid := range m.Type(typeMember) {
		nids = append(nids, nid)
	}
	is, err := w.s.db.Memberships(ctx, roomdb.RoomKey{Part: w.r.p.part, NID: w.r.nid}, nids)
	if err != nil {
		return err
	}
	is[own.nid] = own.pdu.Membership()
	now := make(map[id.Server]int32)
	for key, nid := range m.Type(typeMember) {
		if is[nid] == "join" {
			now[id.User(key.StateKey).Server()]++
		}
	}
	w.c.servers, err = w.r.uncounted(ctx, now)
	return err
}
