package room

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// What one resolution may cost at most. Only a room of millions of state events that differ nearly all can exceed it; its
// event is refused, as one that cannot be judged.
var resolveBounds = resolve.Budget{Visits: 1 << 28, Events: 500_000}

// What a room is charged for: see resolve.Budget.
const (
	visitCost = 50 * time.Nanosecond
	loadCost  = 10 * time.Microsecond
)

// resolve resolves states of the draft's room. What was resolved before is remembered by the identities of the inputs: here
// until the verdict on an event changes (see remember), and in Redis, with the verdicts that it depends on.
func (w *writer) resolve(ctx context.Context, maps []state.Map) (state.Map, error) {
	s, r := w.s, w.r
	maps = distinct(maps)
	switch len(maps) {
	case 0:
		return state.Map{}, nil
	case 1:
		return maps[0], nil
	}
	key, memo := resolveKey(maps), &r.resolved
	if w.redone != nil { // its verdicts are not those of the room yet
		memo = w.underNewVerdicts()
	}
	if m, ok := memo.get(key); ok {
		s.metrics.memo.WithLabelValues("room").Inc()
		return m, nil
	}
	known, ok := w.unlocked.get(ctx, w, key)
	if !ok {
		var err error
		if w.unlocked.may() {
			known, err = w.resolveBriefly(ctx, maps)
		} else {
			known, err = w.resolveAtLength(ctx, maps, r.readGraph)
		}
		if err != nil {
			return state.Map{}, err
		}
	}
	if g, ok := s.graphs.Peek(r); ok && !r.dead.Load() {
		s.graphs.Add(r, g) // it may weigh more than last time
	}
	memo.put(key, known.result)
	if !known.shared {
		r.unshared = append(r.unshared, known)
	}
	return known.result, nil
}

// holds says whether the draft has these verdicts on events. One that cannot be read is none.
func (w *writer) holds(ctx context.Context, verdicts map[int64]bool) bool {
	for nids := range slices.Chunk(slices.Collect(maps.Keys(verdicts)), resolveChunk) {
		events, err := w.s.readEvents(ctx, w.r.p, nids, true)
		if err != nil {
			return false
		}
		for _, e := range events {
			if w.rejected(e) != verdicts[e.NID] {
				return false
			}
		}
	}
	return true
}

// rejected says whether the draft has a stored event rejected.
func (w *writer) rejected(e *roomdb.Event) bool { return w.present(e).Flags&flagRejected != 0 }

// resolveAtLength resolves states that differ in whatever. Of the draft it needs the room and its verdicts only. read reads
// the auth graph.
func (w *writer) resolveAtLength(ctx context.Context, maps []state.Map, read func(context.Context) (*growing, error)) (resolution, error) {
	s, r := w.s, w.r
	g, ok := s.graphs.Get(r)
	if !ok { // reading the graph costs more than asking
		if known, ok := s.shared.get(ctx, r.key(), maps); ok && w.holds(ctx, known.verdicts) {
			s.metrics.memo.WithLabelValues("redis").Inc()
			known.shared = true
			return known, nil
		}
		var err error
		if g, err = read(ctx); err != nil {
			return resolution{}, fmt.Errorf("auth graph of %s: %w", r.id, err)
		}
	}
	s.metrics.memo.WithLabelValues("none").Inc()
	var known resolution
	err := r.walk(g, true, func(by *resolve.Resolver) (err error) {
		known, err = w.resolveInTurn(ctx, by, maps)
		return err
	})
	if err != nil {
		return resolution{}, fmt.Errorf("resolve state of %s: %w", r.id, err)
	}
	return known, nil
}

func (w *writer) resolveInTurn(ctx context.Context, by *resolve.Resolver, maps []state.Map) (resolution, error) {
	s, r := w.s, w.r
	s.metrics.waiting.Inc()
	turn, err := s.turns.begin(ctx)
	s.metrics.waiting.Dec()
	if err != nil {
		return resolution{}, err
	}
	defer turn.pause()
	if s.faults.resolving != nil {
		if err := s.faults.resolving(turn, r); err != nil {
			return resolution{}, err
		}
	}
	start := time.Now()
	m, stats, err := w.resolveBy(turn, by, maps, &resolveSource{w, turn, ctx}, resolveBounds)
	s.metrics.resolved(stats, time.Since(start))
	r.charge(stats)
	if errors.Is(err, resolve.ErrBudget) {
		s.metrics.tooLarge.Inc()
		s.log.Warn("a fork is too large to be resolved", "room", r.id, "err", err)
	}
	return resolution{room: r.key(), maps: maps, result: m, verdicts: stats.Verdicts}, err
}

// resolveBy resolves with what is known of the room's events, unless the draft has other verdicts than the room. What a resolver
// remembers and its graph are together a part of what is for all, as what weighs more than that is not kept at all.
func (w *writer) resolveBy(ctx context.Context, by *resolve.Resolver, maps []state.Map, src *resolveSource, b resolve.Budget) (state.Map, resolve.Stats, error) {
	if w.redone != nil {
		return resolve.Resolve(ctx, w.r.rules, by.Graph(), maps, src, b)
	}
	return by.Resolve(ctx, w.r.rules, maps, src, b, w.s.cfg.Graphs*3/4-by.Graph().Bytes())
}

// charge makes the room pay for a resolution.
func (r *room) charge(stats resolve.Stats) {
	r.allowance.spend(time.Now(), time.Duration(stats.Visited)*visitCost+time.Duration(stats.Loaded)*loadCost)
}

// resolveSource reads what a resolution replays.
type resolveSource struct {
	w *writer
	// ctx is asked whether the resolution goes on, which may take a turn of others; reads are made in read.
	ctx, read context.Context
}

// resolveChunk is how many events are read before others may have a turn.
const resolveChunk = 500

// Events implements resolve.Source. What a large fork reads must not push out of the cache what the others need.
func (src *resolveSource) Events(_ context.Context, nids []int64) ([]resolve.Event, error) {
	out := make([]resolve.Event, 0, len(nids))
	for chunk := range slices.Chunk(nids, resolveChunk) {
		if err := src.ctx.Err(); err != nil {
			return nil, err
		}
		events, err := src.w.s.readEvents(src.read, src.w.r.p, chunk, len(nids) <= resolveChunk)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			out = append(out, resolve.Event{PDU: e.AsReceived(), Rejected: src.w.rejected(e)})
		}
	}
	return out, nil
}

// solvent returns the room, locked as joinedRoom does, once it has processor time for its forks left. If that takes longer
// than the request has, the sender is told to come again.
func (in *intake) solvent(ctx context.Context) (*room, error) {
	for {
		r, err := in.s.joinedRoom(ctx, in.roomID)
		if err != nil {
			return nil, err
		}
		owed := r.allowance.owed(time.Now())
		if owed == 0 {
			return r, nil
		}
		r.unlock()
		in.s.metrics.overdrawn.Inc()
		if until, ok := ctx.Deadline(); ok && time.Until(until) < owed {
			return nil, busy(owed)
		}
		timer := time.NewTimer(owed)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func distinct(maps []state.Map) []state.Map {
	var out []state.Map
	for _, m := range maps {
		if !slices.ContainsFunc(out, m.Equal) {
			out = append(out, m)
		}
	}
	return out
}

func resolveKey(maps []state.Map) string {
	ids := make([]state.ID, len(maps))
	for i, m := range maps {
		ids[i] = m.ID()
	}
	slices.SortFunc(ids, func(a, b state.ID) int { return bytes.Compare(a[:], b[:]) })
	var key []byte
	for _, sid := range ids {
		key = append(key, sid[:]...)
	}
	return string(key)
}

// forgetResolved is called when the verdict on an event has changed, or may have: what was resolved holds for the one before.
func (r *room) forgetResolved() {
	r.resolved = memo{}
	r.verdicts++
	r.forgetVerdicts()
}

// forgetVerdicts is called when events are read with other verdicts than before. The room need not be locked.
func (r *room) forgetVerdicts() {
	if g, ok := r.s.graphs.Peek(r); ok {
		g.known.VerdictsChanged()
	}
}

// underNewVerdicts is what the draft remembers. The room may have changed verdicts of its own since.
func (w *writer) underNewVerdicts() *memo {
	if w.verdicts != w.r.verdicts {
		w.resolved, w.verdicts = memo{}, w.r.verdicts
	}
	return &w.resolved
}

// memo remembers a few results.
type memo struct {
	by   map[string]state.Map
	ring []string
}

// memoSize is how many resolutions a room remembers.
const memoSize = 8

func (m *memo) get(key string) (state.Map, bool) {
	r, ok := m.by[key]
	return r, ok
}

func (m *memo) put(key string, r state.Map) {
	if m.by == nil {
		m.by = make(map[string]state.Map, memoSize)
	}
	if _, ok := m.by[key]; ok {
		return
	}
	if len(m.ring) == memoSize {
		delete(m.by, m.ring[0])
		m.ring = m.ring[1:]
	}
	m.ring = append(m.ring, key)
	m.by[key] = r
}
