package state

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Segments are written at distances of fan, fan², fan³ … snapshots: a cold load
// leaps over the chain in at most fan-1 steps of each length.
const fan = 16

const (
	// minBase keeps small rooms from writing their whole state too often: a base is
	// due when loading would read more than max(minBase, N) changed entries.
	minBase = 256
	// inlineSpan and inlineLen are the largest segments that a batch computes at
	// once; larger ones are left to Batch.Later.
	inlineSpan = fan * fan
	inlineLen  = 4096
)

// Snapshot is a state that has a number: what event rows and rooms refer to by sid.
// The owner of the partition holds Snapshots of the states that it works with, makes
// new ones with a Batch, and gets old ones from Writer.Open. Immutable.
type Snapshot struct {
	part uint32
	at   anchor
	// marks[i] is the nearest snapshot at or before this one at which the chain may
	// leap fan^(i+1) further: where a segment of that length will start.
	marks []anchor
	base  anchor
}

// anchor is a place on a snapshot's chain.
type anchor struct {
	sid    int64
	m      Map
	depth  int64 // snapshots since the base
	weight int   // entries to read after the base: an upper bound
}

// Part returns the partition.
func (s *Snapshot) Part() uint32 { return s.part }

// SID returns the snapshot's number in the partition.
func (s *Snapshot) SID() int64 { return s.at.sid }

// Map returns the state.
func (s *Snapshot) Map() Map { return s.at.m }

// mark returns where a segment of length fan^level that ends at s would start.
func (s *Snapshot) mark(level int) anchor {
	if level <= len(s.marks) {
		return s.marks[level-1]
	}
	return s.base
}

// reach places a on the chain after s, arrived at by a leap of span snapshots, and
// returns the marks that hold from there on.
func (s *Snapshot) reach(a anchor, span int64) []anchor {
	level := levelOf(span)
	if level == 0 {
		return s.marks
	}
	marks := make([]anchor, max(level, len(s.marks)))
	copy(marks, s.marks)
	for i := range level {
		marks[i] = a
	}
	return marks
}

// levelOf returns the largest l with fan^l <= span.
func levelOf(span int64) int {
	l := 0
	for ; span >= fan; span /= fan {
		l++
	}
	return l
}

// ErrOrder is returned when a snapshot's number does not exceed its parent's.
var ErrOrder = errors.New("snapshot number is not greater than its parent's")

// Batch collects the rows of new snapshots, for one transaction of the partition's
// owner. Discard it, and the Snapshots that came from it, if the transaction fails.
type Batch struct {
	w      *Writer
	deltas deltaRows
	segs   segRows
	later  []Segment
}

type deltaRows struct {
	parts         []int32
	sids, parents []int64
	data          [][]byte
}

type segRows struct {
	parts             []int32
	sids, backs, span []int64
	data              [][]byte
}

// Root adds a state that has no stored ancestor: that of a new room, or one that
// another server sent whole. Its cost is O(N). A state of more than some thousand
// entries is better committed in a transaction before the one that refers to it.
func (b *Batch) Root(part uint32, sid int64, m Map) (*Snapshot, error) {
	if sid <= 0 {
		return nil, fmt.Errorf("%w: %d after 0", ErrOrder, sid)
	}
	if err := b.w.use(part, sid); err != nil {
		return nil, err
	}
	es, _ := difference(Map{}, m, m.Len())
	b.deltas.add(part, sid, 0, encode(sid, es))
	return newRoot(part, sid, m), nil
}

func newRoot(part uint32, sid int64, m Map) *Snapshot {
	a := anchor{sid: sid, m: m}
	return &Snapshot{part: part, at: a, base: a}
}

// Child adds the state m that came from parent by some changes, which are found by
// Diff. If there are none it returns parent itself and uses no number.
func (b *Batch) Child(parent *Snapshot, sid int64, m Map) (*Snapshot, error) {
	if parent.at.m.Equal(m) {
		return parent, b.w.use(parent.part, parent.at.sid)
	}
	if sid <= parent.at.sid {
		return nil, fmt.Errorf("%w: %d after %d", ErrOrder, sid, parent.at.sid)
	}
	if err := b.w.use(parent.part, parent.at.sid, sid); err != nil {
		return nil, err
	}
	es, _ := difference(parent.at.m, m, parent.at.m.Len()+m.Len())
	b.deltas.add(parent.part, sid, parent.at.sid, encode(sid, es))
	a := anchor{sid: sid, m: m, depth: parent.at.depth + 1, weight: parent.at.weight + len(es)}
	return b.leap(parent, a), nil
}

// Merge adds the state m that was resolved from those of parents: a child of the
// one that is nearest to it.
func (b *Batch) Merge(parents []*Snapshot, sid int64, m Map) (*Snapshot, error) {
	if len(parents) == 0 {
		return nil, errors.New("merge of no snapshots")
	}
	best, least := parents[0], -1
	for _, p := range parents {
		limit := least - 1
		if least < 0 {
			limit = p.at.m.Len() + m.Len()
		}
		if es, ok := difference(p.at.m, m, limit); ok {
			best, least = p, len(es)
		}
		if least == 0 {
			break
		}
	}
	return b.Child(best, sid, m)
}

// leap writes the segment that ends at a, if one is due, and returns the snapshot.
func (b *Batch) leap(parent *Snapshot, a anchor) *Snapshot {
	s := &Snapshot{part: parent.part, base: parent.base}
	if a.weight >= max(minBase, a.m.Len()) {
		return b.rebase(parent.part, a)
	}
	level := 0
	for a.depth-parent.mark(level+1).depth >= pow(fan, level+1) {
		level++
	}
	if level == 0 {
		s.at, s.marks = a, parent.marks
		return s
	}
	from := parent.mark(level)
	seg := Segment{part: parent.part, sid: a.sid, back: from.sid, span: a.depth - from.depth, from: from.m, to: a.m}
	if seg.span <= inlineSpan {
		es, _ := difference(from.m, a.m, from.m.Len()+a.m.Len())
		a.weight = from.weight + len(es)
		b.segs.add(seg, encode(a.sid, es))
	} else {
		b.later = append(b.later, seg)
	}
	s.at, s.marks = a, parent.reach(a, seg.span)
	return s
}

// rebase writes the whole state at a. It is due after as many changes as the state
// has entries, so that it costs each of them the bytes of about one entry.
func (b *Batch) rebase(part uint32, a anchor) *Snapshot {
	seg := Segment{part: part, sid: a.sid, to: a.m}
	if a.m.Len() <= inlineLen {
		b.segs.add(seg, seg.encode())
	} else {
		b.later = append(b.later, seg)
	}
	return newRoot(part, a.sid, a.m)
}

func pow(x int64, n int) int64 {
	p := int64(1)
	for range n {
		p *= x
	}
	return p
}

func (r *deltaRows) add(part uint32, sid, parent int64, data []byte) {
	r.parts = append(r.parts, int32(part))
	r.sids = append(r.sids, sid)
	r.parents = append(r.parents, parent)
	r.data = append(r.data, data)
}

func (r *segRows) add(s Segment, data []byte) {
	r.parts = append(r.parts, int32(s.part))
	r.sids = append(r.sids, s.sid)
	r.backs = append(r.backs, s.back)
	r.span = append(r.span, s.span)
	r.data = append(r.data, data)
}

// Len returns how many snapshots were added.
func (b *Batch) Len() int { return len(b.deltas.sids) }

const (
	insertDeltas = `INSERT INTO state_delta (part, sid, parent, delta)
SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bytea[])`
	insertSegs = `INSERT INTO state_seg (part, sid, back, span, data)
SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[])`
)

// Queue adds the statements that insert the rows: one for the snapshots, one for
// their segments, whatever their number; none if there is nothing to insert.
func (b *Batch) Queue(q *pgx.Batch) {
	if d := &b.deltas; len(d.sids) > 0 {
		q.Queue(insertDeltas, d.parts, d.sids, d.parents, d.data)
	}
	if s := &b.segs; len(s.sids) > 0 {
		q.Queue(insertSegs, s.parts, s.sids, s.backs, s.span, s.data)
	}
}

// Later returns the large segments that became due. Store them after the commit, off
// the hot path. They make cold loads shorter and nothing depends on them: if they are
// lost they become due again, or the chain is somewhat longer.
func (b *Batch) Later() []Segment { return b.later }
