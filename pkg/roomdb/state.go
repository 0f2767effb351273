package roomdb

import (
	"context"
	"fmt"
	"iter"

	"hanse/pkg/state"
)

// State returns a snapshot; sid 0 is the empty one.
func (d *DB) State(ctx context.Context, part uint32, sid int64) (state.Map, error) {
	if sid == 0 {
		return state.Map{}, nil
	}
	return d.states.Load(ctx, d.shards.For(part), part, sid)
}

// States returns many snapshots with one round of queries for each shard.
func (d *DB) States(ctx context.Context, refs []state.Ref) (map[state.Ref]state.Map, error) {
	parts := make([]uint32, len(refs))
	for i, r := range refs {
		parts[i] = r.Part
	}
	found := make(map[state.Ref]state.Map, len(refs))
	err := d.eachShard(parts, func(q querier, _ []int32, index []int) error {
		of := make([]state.Ref, 0, len(index))
		for _, at := range index {
			if refs[at].SID == 0 {
				found[refs[at]] = state.Map{}
				continue
			}
			of = append(of, refs[at])
		}
		maps, err := d.states.LoadMany(ctx, q, of)
		if err != nil {
			return fmt.Errorf("read states: %w", err)
		}
		for r, m := range maps {
			found[r] = m
		}
		return nil
	})
	return found, err
}

// StateEvent returns the event at a key of a snapshot; nil if there is none.
func (d *DB) StateEvent(ctx context.Context, part uint32, m state.Map, typ, stateKey string) (*Event, error) {
	nid, ok := m.Get(state.Key{Type: typ, StateKey: stateKey})
	if !ok {
		return nil, nil
	}
	events, err := d.Events(ctx, part, []int64{nid})
	if err != nil {
		return nil, err
	}
	if events[nid] == nil {
		return nil, fmt.Errorf("state event %d of partition %d: %w", nid, part, ErrNotFound)
	}
	return events[nid], nil
}

// StateEvents returns the events of entries of a snapshot (state.Map's All, Type or TypePrefix), in their order.
func (d *DB) StateEvents(ctx context.Context, part uint32, entries iter.Seq2[state.Key, int64]) ([]*Event, error) {
	var nids []int64
	for _, nid := range entries {
		nids = append(nids, nid)
	}
	return d.InOrder(ctx, part, nids)
}

// InOrder returns the events, all of which must exist, in the order of their ids here.
func (d *DB) InOrder(ctx context.Context, part uint32, nids []int64) ([]*Event, error) {
	found, err := d.Events(ctx, part, nids)
	if err != nil {
		return nil, err
	}
	events := make([]*Event, len(nids))
	for i, nid := range nids {
		if events[i] = found[nid]; events[i] == nil {
			return nil, fmt.Errorf("event %d of partition %d: %w", nid, part, ErrNotFound)
		}
	}
	return events, nil
}
