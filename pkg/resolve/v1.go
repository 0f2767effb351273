package resolve

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // the algorithm of room version 1 orders by it
	"slices"

	"hanse/pkg/state"
)

// resolveV1 is the algorithm of room version 1. A conflict needs two different events: a key that some state lacks is not
// in conflict. The passes decide the keys of one type after the other, all keys of a type upon the same state.
func (r *resolution) resolveV1() error {
	conflicts, err := r.separateV1()
	if err != nil {
		return err
	}
	for _, typ := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member", ""} {
		decided := make(map[state.Key]int64)
		for key, events := range conflicts {
			if typ != "" && key.Type != typ {
				continue
			}
			decide := r.lastAllowed
			if typ != "" {
				decide = r.firstAllowed
			}
			if decided[key], err = decide(key, events); err != nil {
				return err
			}
			delete(conflicts, key)
		}
		for key, nid := range decided {
			r.hold(key, nid)
		}
	}
	return nil
}

// separateV1 decides the keys for which there is one event, and returns the events of the others by depth.
func (r *resolution) separateV1() (map[state.Key][]hashed, error) {
	values := make(map[state.Key][]int64)
	var nids []int64
	for _, c := range r.conflicts {
		slices.Sort(c.values)
		some := slices.DeleteFunc(slices.Compact(c.values), func(nid int64) bool { return nid == 0 })
		if len(some) == 1 {
			r.hold(c.key, some[0])
			continue
		}
		values[c.key] = some
		nids = append(nids, some...)
	}
	r.Full = len(nids)
	if err := r.load(nids); err != nil {
		return nil, err
	}
	if err := r.loadAuth(); err != nil {
		return nil, err
	}
	conflicts := make(map[state.Key][]hashed, len(values))
	for key, nids := range values {
		events := make([]hashed, len(nids))
		for n, nid := range nids {
			ev := r.events[nid]
			events[n] = hashed{nid, ev, sha1.Sum([]byte(ev.ID))} //nolint:gosec // see the import
		}
		slices.SortFunc(events, byDepth)
		conflicts[key] = events
	}
	return conflicts, nil
}

// hashed is an event with what the order of version 1 compares.
type hashed struct {
	nid int64
	Event
	sum [sha1.Size]byte
}

// byDepth is ascending by depth, then descending by sha1(event_id).
func byDepth(x, y hashed) int {
	if c := cmp.Compare(x.Depth, y.Depth); c != 0 {
		return c
	}
	return cmp.Or(bytes.Compare(y.sum[:], x.sum[:]), cmp.Compare(x.ID, y.ID))
}

// firstAllowed goes up the events for a key, from the lowest depth, for as long as each is allowed after the one before.
func (r *resolution) firstAllowed(key state.Key, events []hashed) (int64, error) {
	view := &view{r: r}
	picked := events[0].nid
	defer r.hold(key, 0)
	for _, ev := range events[1:] {
		r.hold(key, picked)
		allowed, err := view.allows(r.g.Find(ev.nid), ev.PDU)
		if err != nil {
			return 0, err
		}
		if !allowed {
			break
		}
		picked = ev.nid
	}
	return picked, nil
}

// lastAllowed is the event for a key with the highest depth that is allowed, or else the one with the lowest.
func (r *resolution) lastAllowed(_ state.Key, events []hashed) (int64, error) {
	view := &view{r: r}
	for _, ev := range slices.Backward(events) {
		allowed, err := view.allows(r.g.Find(ev.nid), ev.PDU)
		if err != nil {
			return 0, err
		}
		if allowed {
			return ev.nid, nil
		}
	}
	return events[0].nid, nil
}
