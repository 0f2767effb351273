package room

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdb/eventsql"
	"hanse/pkg/state"
)

// errFenced says that another worker has taken a partition of the append over. Nothing was written.
var errFenced = errors.New("a partition of the append is owned elsewhere")

// errUnknownOutcome says that the connection broke while the append may have been committed.
var errUnknownOutcome = errors.New("the outcome of the append is unknown")

// batch is what one transaction writes: changes of several partitions, in the order in which they came.
type batch struct {
	changes []*change
	parts   []*partBatch // ascending by partition
}

// partBatch is a partition's share of a batch.
type partBatch struct {
	p       *lease
	first   int64 // position of the first entry
	nid     int64
	changes []*change
	entries int64
}

// newBatch sorts changes by partition and gives them their positions.
func newBatch(changes []*change) *batch {
	b := &batch{changes: changes}
	byPart := make(map[*lease]*partBatch, 4)
	for _, c := range changes {
		p := c.room.p
		pb := byPart[p]
		if pb == nil {
			pb = &partBatch{p: p, first: p.head + 1}
			byPart[p] = pb
			b.parts = append(b.parts, pb)
		}
		pb.changes = append(pb.changes, c)
		pb.nid = max(pb.nid, c.nid)
		for _, e := range c.entries {
			e.bus.Pos = pb.first + pb.entries
			pb.entries++
			if e.event != nil {
				e.event.ord = e.bus.Pos
			}
			if e.receipt != nil {
				e.receipt.pos = e.bus.Pos
			}
			if e.kind == roomdb.KindFilled {
				c.room.filledPos.Store(e.bus.Pos)
			}
		}
		c.last = pb.first + pb.entries - 1
	}
	slices.SortFunc(b.parts, func(x, y *partBatch) int { return cmp.Compare(x.p.part, y.p.part) })
	return b
}

// head is where the partition stands after the batch.
func (pb *partBatch) head() int64 { return pb.first + pb.entries - 1 }

// appendAll writes a batch as one transaction behind the fence. It is the only function that writes the tables of
// room partitions.
func (s *Service) appendAll(ctx context.Context, pool *pgxpool.Pool, b *batch) error {
	var q pgx.Batch
	b.queueFence(&q)
	b.queueRooms(&q)
	b.queueEvents(&q)
	b.queueLog(&q)
	b.queuePartial(&q)
	b.queueTold(&q)
	b.queueEdges(&q)
	b.queueRelations(&q)
	b.queueReceipts(&q)
	later := s.queueStates(&q, b)
	if s.faults.before != nil {
		s.faults.before()
	}
	err := pool.SendBatch(ctx, &q).Close()
	if s.faults.commit != nil {
		err = s.faults.commit(err)
	}
	if err == nil {
		s.storeLater(pool, later)
		return nil
	}
	if pg.IsFenced(err) {
		return errFenced
	}
	// One Sync ends the batch: whatever broke the connection may have come after the commit.
	if pg.Ambiguous(&pg.CommitError{Err: err}) {
		return fmt.Errorf("%w: %w", errUnknownOutcome, err)
	}
	return fmt.Errorf("append: %w", err)
}

func (b *batch) queueFence(q *pgx.Batch) {
	n := len(b.parts)
	part, epoch, head := make([]int32, n), make([]int64, n), make([]int64, n)
	grow, nid, projected := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, pb := range b.parts {
		part[i], epoch[i], head[i] = int32(pb.p.part), pb.p.epoch, pb.p.head
		grow[i], nid[i], projected[i] = pb.entries, pb.nid, pb.p.projected.Load()
	}
	q.Queue(sqlFence, part, epoch, head, grow, nid, projected)
}

// queueRooms writes new rooms, and of rooms that several changes touch the last values only.
func (b *batch) queueRooms(q *pgx.Batch) {
	type last struct {
		row       *roomRow
		create    bool
		published *bool
		pos       int64
	}
	var order []*room
	rooms := make(map[*room]*last, len(b.changes))
	for _, c := range b.changes {
		st := rooms[c.room]
		if st == nil {
			st = new(last)
			rooms[c.room] = st
			order = append(order, c.room)
		}
		if c.row != nil {
			st.row = c.row
		}
		st.create = st.create || c.create
		if c.publish != nil {
			st.published = c.publish
		}
		if len(c.entries) > 0 {
			st.pos = c.last
		}
	}
	var create, update roomRows
	var publish, displaced keyed
	for _, r := range order {
		st := rooms[r]
		pos := max(st.pos, r.lastPos.Load())
		switch {
		case st.create:
			create.add(r, st.row, pos, st.published != nil && *st.published)
		case st.row != nil:
			update.add(r, st.row, pos, false)
		}
		if st.published != nil && !st.create {
			publish.add(r)
			publish.flag = append(publish.flag, *st.published)
		}
	}
	for _, c := range b.changes {
		if c.displaced != 0 {
			displaced.part, displaced.room = append(displaced.part, int32(c.room.p.part)), append(displaced.room, c.displaced)
		}
	}
	if len(displaced.part) > 0 {
		q.Queue(eventsql.DeleteRooms, displaced.part, displaced.room)
		q.Queue(sqlDeleteRoom, displaced.part, displaced.room)
	}
	if len(create.part) > 0 {
		q.Queue(sqlInsertRoom, create.insert()...)
	}
	if len(update.part) > 0 {
		q.Queue(sqlUpdateRoom, update.update()...)
	}
	if len(publish.part) > 0 {
		q.Queue(sqlPublishRoom, publish.part, publish.room, publish.flag)
	}
}

func (b *batch) queueEvents(q *pgx.Batch) {
	var insert, place eventsql.Rows
	for _, c := range b.changes {
		for _, e := range c.events {
			rows := &insert
			if e.rowExists {
				rows = &place
			}
			addEvent(rows, int32(c.room.p.part), c.room.nid, e)
		}
	}
	var replaced keyed
	for _, c := range b.changes {
		for _, nid := range c.replaced {
			replaced.add(c.room)
			replaced.num = append(replaced.num, nid)
		}
	}
	if len(replaced.part) > 0 {
		q.Queue(eventsql.DeleteAuthMissing, replaced.part, replaced.num)
	}
	if len(insert.Part) > 0 {
		q.Queue(eventsql.Insert, insert.Insert()...)
	}
	if len(place.Part) > 0 {
		q.Queue(eventsql.Place, place.Place()...)
	}
}

func (b *batch) queueLog(q *pgx.Batch) {
	var rows logRows
	for _, c := range b.changes {
		for _, e := range c.entries {
			rows.add(c.room, e.bus.Pos, e)
		}
	}
	if len(rows.part) > 0 {
		q.Queue(sqlInsertLog, rows.args()...)
	}
}

// queueEdges writes what hangs on events: redactions, mentions, servers, missing events.
func (b *batch) queueEdges(q *pgx.Batch) {
	var redact, await, mention, server, lacks, found keyed
	var holes []*int64
	servers := make(map[serverKey]int32)
	for _, c := range b.changes {
		for _, r := range c.redactions {
			redact.add(c.room)
			redact.num = append(redact.num, r.by)
			redact.room[len(redact.room)-1] = r.target
		}
		for _, a := range c.awaited {
			await.add(c.room)
			await.text, await.num = append(await.text, string(a.target)), append(await.num, a.by)
		}
		for _, e := range c.events {
			for _, user := range e.mentions {
				mention.add(c.room)
				mention.text, mention.text2 = append(mention.text, user), append(mention.text2, e.thread)
				mention.num = append(mention.num, e.ord)
			}
		}
		for name, delta := range c.servers {
			servers[serverKey{c.room, name}] += delta
		}
		for _, l := range c.lacks {
			lacks.add(c.room)
			lacks.text, lacks.num = append(lacks.text, string(l.event)), append(lacks.num, l.child.nid)
			holes = append(holes, l.hole())
		}
		for _, e := range c.found {
			found.add(c.room)
			found.text = append(found.text, string(e))
		}
	}
	for k, delta := range servers {
		if delta != 0 {
			server.add(k.room)
			server.text, server.small = append(server.text, string(k.server)), append(server.small, delta)
		}
	}
	if len(redact.part) > 0 {
		q.Queue(eventsql.Redact, redact.part, redact.room, redact.num)
	}
	if len(await.part) > 0 {
		q.Queue(sqlInsertAwaited, await.part, await.room, await.text, await.num)
	}
	if len(mention.part) > 0 {
		q.Queue(sqlInsertMentions, mention.part, mention.room, mention.text, mention.num, mention.text2)
	}
	if len(server.part) > 0 {
		q.Queue(sqlServers, server.part, server.room, server.text, server.small)
	}
	if len(lacks.part) > 0 {
		q.Queue(sqlInsertMissing, lacks.part, lacks.room, lacks.text, lacks.num, holes)
	}
	if len(found.part) > 0 {
		q.Queue(sqlDeleteMissing, found.part, found.room, found.text)
	}
}

// queueReceipts writes the last receipt of each user, type and thread.
func (b *batch) queueReceipts(q *pgx.Batch) {
	type key struct {
		room        *room
		user        string
		typ, thread string
	}
	last := make(map[key]*receiptRow)
	var order []key
	for _, c := range b.changes {
		for _, r := range c.receipts {
			k := key{c.room, string(r.user), r.typ, r.thread}
			if _, ok := last[k]; !ok {
				order = append(order, k)
			}
			last[k] = r
		}
	}
	if len(order) == 0 {
		return
	}
	var rows receiptRows
	for _, k := range order {
		rows.add(k.room, last[k])
	}
	q.Queue(sqlReceipts, rows.args()...)
}

// queueStates writes the snapshots, and returns what is better written after the commit.
func (s *Service) queueStates(q *pgx.Batch, b *batch) []state.Segment {
	all := s.states.Batch()
	for _, c := range b.changes {
		if c.states != nil {
			all.Join(c.states)
		}
	}
	all.Queue(q)
	return all.Later()
}

// storeLater writes large segments of state, which only make later loads shorter, off the hot path.
func (s *Service) storeLater(pool *pgxpool.Pool, segments []state.Segment) {
	if len(segments) == 0 {
		return
	}
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
		defer cancel()
		for _, seg := range segments {
			if err := seg.Store(ctx, pool); err != nil {
				s.log.Warn("state segment could not be stored", "err", err)
				return
			}
		}
	})
}
