package room

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Fetching the members of a room that was joined without them ("partial state"). The row in partial_room says that it has
// to be done; whoever owns the partition does it, from wherever the owner before was. Its steps:
//
//  1. ids: some server in the room is asked for the ids of the state before our join, and of its auth chain.
//  2. fetch: the events that we lack are streamed into the spool (partial_fetch.go).
//  3. store: from the spool they become outliers, in chunks, each after what it cites (partial_spool.go).
//  4. whole: the ids become a state (partial_whole.go).
//  5. redo: the events since the join are judged by it, and the room goes over to it in one change (partial_redo.go).
//
// Each step finds out what there is to do from what is stored, so that it may be ended at any point and begun again.

const (
	// fillsAtOnce is how many rooms a worker fills at a time: each may hold the ids of a large state.
	fillsAtOnce = 3
	// fillServers is how many servers one attempt asks.
	fillServers = 8
	// fillRetryMin and fillRetryMax bound the wait between attempts.
	fillRetryMin, fillRetryMax = 500 * time.Millisecond, 5 * time.Minute
)

// fillKey names a room that is being filled under a lease.
type fillKey struct {
	epoch int64
	room  id.Room
}

// fill is the work for one room under one lease.
type fill struct {
	s      *Service
	p      *lease
	roomID id.Room
	began  time.Time

	// Known from begin on.
	in   intake
	nid  int64
	join *roomdb.Event
	via  id.Server
}

// fillSoon makes a room whole in the background, if nobody does so yet.
func (s *Service) fillSoon(p *lease, roomID id.Room) {
	key := fillKey{p.epoch, roomID}
	if _, busy := s.filling.LoadOrStore(key, true); busy {
		return
	}
	s.work.Go(func() {
		s.metrics.partial.Inc()
		defer s.metrics.partial.Dec()
		f := &fill{s: s, p: p, roomID: roomID, began: time.Now()}
		f.run(p.ctx)
		s.filling.Delete(key)
		// The room may have been left and joined again in the very moment.
		if again, err := f.begin(p.ctx); err == nil && again {
			s.fillSoon(p, roomID)
		}
	})
}

// resumeFills goes on with what the owner before did not finish.
func (s *Service) resumeFills(p *lease) {
	s.work.Go(func() {
		for wait := fillRetryMin; ; wait = min(2*wait, fillRetryMax) {
			rooms, err := s.partialRooms(p)
			if err == nil {
				for _, roomID := range rooms {
					s.fillSoon(p, roomID)
				}
				rooms, err = s.roomsOf(p.ctx, p, sqlToldRooms)
				for _, roomID := range rooms {
					s.reviewSoon(p, roomID)
				}
			}
			if err == nil {
				rooms, err = s.roomsOf(p.ctx, p, sqlToldJoinRooms)
				for _, roomID := range rooms {
					s.compareJoinSoon(p, roomID)
				}
			}
			if err == nil {
				return
			}
			if p.ctx.Err() == nil {
				s.log.Warn("rooms with missing members could not be read", "part", p.part, "err", err)
			}
			if !pause(p.ctx, wait) {
				return
			}
		}
	})
}

func (s *Service) partialRooms(p *lease) ([]id.Room, error) {
	rows, err := s.shards.For(p.part).Query(p.ctx, sqlPartialRooms, int32(p.part))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[id.Room])
}

// pause waits; false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// run tries until the room is whole, left, or owned elsewhere.
func (f *fill) run(ctx context.Context) {
	for wait := fillRetryMin; ctx.Err() == nil; wait = min(2*wait, fillRetryMax) {
		select {
		case f.s.fills <- struct{}{}:
		case <-ctx.Done():
			return
		}
		done, err := f.attempt(ctx)
		<-f.s.fills
		if done || ctx.Err() != nil {
			return
		}
		f.s.log.Warn("members of a room are not complete yet", "room", f.roomID, "retry_in", wait, "err", err)
		f.s.metrics.fillFailures.Inc()
		if !pause(ctx, wait) {
			return
		}
	}
}

func (f *fill) attempt(ctx context.Context) (done bool, err error) {
	partial, err := f.begin(ctx)
	if err != nil || !partial {
		return err == nil, err
	}
	ids, err := f.fetchAny(ctx)
	if err != nil {
		return false, err
	}
	if err := f.step(ctx, "store"); err != nil {
		return false, err
	}
	if err := f.storeSpool(ctx, ids.spooled); err != nil {
		return false, fmt.Errorf("store members: %w", err)
	}
	if err := f.step(ctx, "whole"); err != nil {
		return false, err
	}
	st, err := f.whole(ctx, ids)
	if err != nil {
		return false, err
	}
	if err := f.step(ctx, "redo"); err != nil {
		return false, err
	}
	if err := f.redo(ctx, st); err != nil {
		return false, fmt.Errorf("judge by the whole state: %w", err)
	}
	took := time.Since(f.began)
	f.s.metrics.fillSeconds.Observe(took.Seconds())
	f.s.log.Info("members of a room are complete", "room", f.roomID, "state", st.m.Len(), "took", took)
	f.s.preloadGraphSoon(f.p, f.roomID)
	f.s.reviewSoon(f.p, f.roomID)
	f.s.compareJoinSoon(f.p, f.roomID)
	return true, nil
}

// step is where tests look on, and where a lost lease is noticed.
func (f *fill) step(ctx context.Context, name string) error {
	if f.s.faults.fill != nil {
		f.s.faults.fill(name)
	}
	return ctx.Err()
}

// begin finds out whether there is anything to do. A room that we have left is given up: nobody would answer us.
func (f *fill) begin(ctx context.Context) (partial bool, err error) {
	r, err := f.lock(ctx)
	if err != nil {
		return false, err
	}
	defer r.unlock()
	if !r.exists || r.partial == nil {
		return false, nil
	}
	if r.head.joinedLocal == 0 {
		return false, f.giveUp(ctx, r)
	}
	home, err := r.homeServer(ctx)
	if err != nil {
		return false, err
	}
	f.nid, f.via = r.nid, r.partial.via
	f.in = intake{s: f.s, roomID: f.roomID, rules: r.rules, home: home}
	f.join, err = f.s.event(ctx, f.p, r.partial.joinNID)
	return err == nil, err
}

// lock locks the room under the fill's own lease.
func (f *fill) lock(ctx context.Context) (*room, error) {
	r, err := f.s.lockRoom(ctx, f.roomID)
	if err != nil {
		return nil, err
	}
	if r.p != f.p {
		r.unlock()
		return nil, f.p.lostError()
	}
	return r, nil
}

// still makes sure that what is being fetched is still the state before the join that the room stands on: it may have been
// left and joined again.
func (f *fill) still(r *room) error {
	if r.partial == nil || r.partial.joinNID != f.join.NID {
		return fmt.Errorf("members of %s before another join: %w", f.roomID, errStale)
	}
	return nil
}

// giveUp takes the mark off a room that we have left. Its state stays what it is until it is joined again.
func (f *fill) giveUp(ctx context.Context, r *room) error {
	if err := r.waitCommitted(ctx); err != nil {
		return err
	}
	w := f.s.newWriter(ctx, r)
	w.endStay()
	w.c.partial.abandon = true
	if err := w.put(); err != nil {
		return err
	}
	r.partial = nil
	f.s.log.Info("the members of a room are no longer fetched: it was left", "room", f.roomID)
	return f.s.dropSpool(ctx, f.p.part, r.nid)
}

// fetchAny gets what we lack of the state from the server that let us in, or from another one in the room.
func (f *fill) fetchAny(ctx context.Context) (*stateListing, error) {
	servers, err := f.servers(ctx)
	if err != nil {
		return nil, err
	}
	failed := errors.New("no other server is known to be in the room")
	for _, server := range servers {
		f.in.origin = server
		ids, err := f.fetchFrom(ctx)
		if err == nil {
			return ids, nil
		}
		if retry(err) || ctx.Err() != nil {
			return nil, err
		}
		f.s.log.Info("members from a server", "room", f.roomID, "server", server, "err", err)
		failed = fmt.Errorf("%s: %w", server, err)
	}
	return nil, failed
}

// servers are those to be asked, in this order.
func (f *fill) servers(ctx context.Context) ([]id.Server, error) {
	all, err := f.s.db.Servers(ctx, f.p.part, f.nid)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	servers := []id.Server{f.via}
	for _, server := range all {
		if server != f.via && !f.s.servers.IsLocal(server) && len(servers) < fillServers {
			servers = append(servers, server)
		}
	}
	return servers, nil
}

// createID is the id of the room's create event.
func (f *fill) createID(ctx context.Context) (id.Event, error) {
	m, err := f.s.db.State(ctx, f.p.part, f.join.SID)
	if err != nil {
		return "", err
	}
	create, err := f.s.db.StateEvent(ctx, f.p.part, m, typeCreate, "")
	if err != nil {
		return "", err
	}
	if create == nil {
		return "", errors.New("the state of the join has no create event")
	}
	return create.ID, nil
}
