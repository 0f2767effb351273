package room

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// projector writes the membership index of a lane's commits, in their order. Changes that touch local members wait
// for it, so that what a client does next sees its join; the others do not.
type projector struct {
	s  *Service
	ch chan projection
}

type projection struct {
	b       *batch
	members []*change
}

// projectorQueue is how many commits may wait for the membership index before the lane waits too.
const projectorQueue = 256

func newProjector(s *Service) *projector {
	return &projector{s: s, ch: make(chan projection, projectorQueue)}
}

func (j *projector) put(b *batch, members []*change) {
	if len(members) == 0 {
		// Nothing to write: the index is as far as this batch if it was as far as the one before.
		for _, pb := range b.parts {
			if pb.p.projecting.Load() == 0 {
				pb.p.projected.Store(pb.head())
			}
		}
		return
	}
	for _, pb := range b.parts {
		pb.p.projecting.Add(1)
	}
	j.ch <- projection{b, members}
}

// run projects until ctx ends. What is left then is caught up by the next owner.
func (j *projector) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for {
				select {
				case p := <-j.ch:
					failAll(p.members, errUnavailable)
				default:
					return
				}
			}
		case p := <-j.ch:
			j.project(ctx, p)
		}
	}
}

func (j *projector) project(ctx context.Context, p projection) {
	rows := newProjectRows(j.s.shards.For)
	for _, c := range p.members {
		for _, m := range c.members {
			rows.add(c.room, m)
		}
	}
	wait := 20 * time.Millisecond
	for {
		err := rows.write(ctx, j.s)
		if err == nil {
			break
		}
		j.s.log.Warn("membership index", "err", err)
		select {
		case <-ctx.Done():
			failAll(p.members, errUnavailable)
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
	for _, pb := range p.b.parts {
		pb.p.projected.Store(pb.head())
		pb.p.projecting.Add(-1)
	}
	for _, c := range p.members {
		c.finish(nil)
	}
}

// projectRows are rows of the membership index by the shard of the user. Of several for the same user and room the
// last one counts.
type projectRows struct {
	shardOf func(part uint32) *pgxpool.Pool
	shards  map[*pgxpool.Pool]*shardRows
}

type memberKey struct {
	user id.User
	room id.Room
}

type shardRows struct {
	index map[memberKey]int

	part                []int32
	user, room          []string
	roomPart            []int32
	roomNID             []int64
	version, membership []string
	eventNID            []int64
	eventID, sender     []string
	pos, joinPos        []int64
	stripped            [][]byte
}

func newProjectRows(shardOf func(part uint32) *pgxpool.Pool) *projectRows {
	return &projectRows{shardOf: shardOf, shards: make(map[*pgxpool.Pool]*shardRows, 1)}
}

// projectedMember is one row.
type projectedMember struct {
	user            id.User
	room            id.Room
	roomPart        uint32
	roomNID         int64
	version         string
	membership      string
	eventNID        int64
	eventID, sender string
	pos             int64
	fresh           bool
}

func (p *projectRows) add(r *room, m memberRow) {
	p.put(projectedMember{
		user: m.user, room: r.id, roomPart: r.p.part, roomNID: r.nid, version: r.rules.Version, membership: m.membership,
		eventNID: m.eventNID, eventID: string(m.eventID), sender: string(m.sender), pos: m.entry.bus.Pos,
		fresh: m.fresh,
	})
}

func (p *projectRows) put(m projectedMember) {
	part := partition.Of(string(m.user))
	pool := p.shardOf(part)
	s := p.shards[pool]
	if s == nil {
		s = &shardRows{index: make(map[memberKey]int)}
		p.shards[pool] = s
	}
	key := memberKey{m.user, m.room}
	i, ok := s.index[key]
	if !ok {
		i = len(s.part)
		s.index[key] = i
		s.grow()
	}
	s.part[i], s.user[i], s.room[i] = int32(part), string(m.user), string(m.room)
	s.roomPart[i], s.roomNID[i], s.version[i] = int32(m.roomPart), m.roomNID, m.version
	s.membership[i], s.eventNID[i], s.eventID[i], s.sender[i] = m.membership, m.eventNID, m.eventID, m.sender
	s.pos[i] = m.pos
	if m.membership == "join" && m.fresh {
		s.joinPos[i] = m.pos
	}
}

func (r *shardRows) grow() {
	r.part = append(r.part, 0)
	r.user, r.room = append(r.user, ""), append(r.room, "")
	r.roomPart, r.roomNID = append(r.roomPart, 0), append(r.roomNID, 0)
	r.version, r.membership = append(r.version, ""), append(r.membership, "")
	r.eventNID, r.eventID = append(r.eventNID, 0), append(r.eventID, "")
	r.sender = append(r.sender, "")
	r.pos, r.joinPos = append(r.pos, 0), append(r.joinPos, 0)
	r.stripped = append(r.stripped, nil)
}

// write writes all rows, one statement for each shard, and tells the bus how far the users' streams have got.
func (p *projectRows) write(ctx context.Context, s *Service) error {
	if len(p.shards) == 1 {
		for pool, rows := range p.shards {
			return rows.write(ctx, pool, s)
		}
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(p.shards))
	for pool, rows := range p.shards {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs <- rows.write(ctx, pool, s)
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *shardRows) write(ctx context.Context, pool *pgxpool.Pool, s *Service) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	rows, err := pool.Query(ctx, sqlProject, r.part, r.user, r.room, r.roomPart, r.roomNID, r.version, r.membership,
		r.eventNID, r.eventID, r.sender, r.pos, r.joinPos, r.stripped)
	if err != nil {
		return fmt.Errorf("write membership index: %w", err)
	}
	byPart := make(map[uint32][]*logv1.UserSeq, 1)
	var part int32
	var user string
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{&part, &user, &seq}, func() error {
		byPart[uint32(part)] = append(byPart[uint32(part)], &logv1.UserSeq{UserId: user, Seq: seq})
		return nil
	})
	if err != nil {
		return fmt.Errorf("write membership index: %w", err)
	}
	for part, users := range byPart {
		if err := s.bus.PublishUsers(part, users...); err != nil {
			s.log.Debug("publish users", "err", err, "part", part)
		}
	}
	return nil
}

// replayBatch is how many member events a takeover projects at once.
const replayBatch = 1000

// replay writes what the owner before may have left out of the membership index.
func (s *Service) replay(ctx context.Context, p *lease) error {
	for from := p.projected.Load(); ; {
		rows := newProjectRows(s.shards.For)
		n, last, err := s.readReplay(ctx, p.part, from, rows)
		if err != nil {
			return fmt.Errorf("replay membership of partition %d: %w", p.part, err)
		}
		if n > 0 {
			if err := rows.write(ctx, s); err != nil {
				return err
			}
			from = last
		}
		if n < replayBatch {
			break
		}
	}
	p.projected.Store(p.head)
	return nil
}

func (s *Service) readReplay(ctx context.Context, part uint32, from int64, into *projectRows) (n int, last int64, err error) {
	rows, err := s.shards.For(part).Query(ctx, sqlReplay, int32(part), from, replayBatch)
	if err != nil {
		return 0, 0, err
	}
	var pos, roomNID int64
	var kind int16
	var roomID, version, eventID string
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&pos, &roomNID, &kind, &roomID, &version, &body, &eventID}, func() error {
		n, last = n+1, pos
		ev := new(logv1.Event)
		if kind == roomdb.KindFilled {
			filled := new(logv1.Filled)
			if err := proto.Unmarshal(body, filled); err != nil {
				return fmt.Errorf("log entry %d: %w", pos, err)
			}
			ev.Moved = filled.Moved
		} else if err := proto.Unmarshal(body, ev); err != nil {
			return fmt.Errorf("log entry %d: %w", pos, err)
		}
		row := projectedMember{room: id.Room(roomID), roomPart: part, roomNID: roomNID, version: version, pos: pos}
		put := func(user, now, before, event, sender string, nid int64) {
			if s.localUser(id.User(user)) {
				row.user, row.membership, row.fresh = id.User(user), now, before != "join"
				row.eventNID, row.eventID, row.sender = nid, event, sender
				into.put(row)
			}
		}
		if ev.Membership != "" && ev.StateKey != nil && !ev.Overruled {
			put(*ev.StateKey, ev.Membership, ev.PrevMembership, eventID, ev.Sender, ev.Nid)
		}
		for _, m := range ev.Moved {
			put(m.UserId, m.Membership, m.PrevMembership, m.EventId, m.Sender, m.EventNid)
		}
		return nil
	})
	return n, last, err
}
