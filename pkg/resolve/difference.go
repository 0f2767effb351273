package resolve

import (
	"hanse/pkg/authgraph"
)

// difference walks down from the conflicted events and knows of each event that it meets in which of the auth chains
// AC(Dᵢ) it is, Dᵢ being the conflicted events of state i. An event in all of them, or in AC(U) for the unconflicted state
// U, is common: it is not in the auth difference, and nor is what it cites. An auth chain contains what it starts from, so
// the events of U are common. The walk does not go on from common events. So before an event counts as part of the
// difference, a search along those that cite it looks for a common event. docs/state.md has the proof.
type difference struct {
	*resolution
	words int        // of a mask: a bit for each state
	next  descending // an event comes after all that cite it

	common indexSet
	dead   indexSet // searched from without success: not common, and nor is a descendant
	newest authgraph.Index
	some   bool // newest is set: there is a common event, and none is newer
	path   []step
}

// step is an event of the path that a search follows, with the citations of it that are left.
type step struct {
	at   authgraph.Index
	next authgraph.Citation
}

// addDifference puts the auth difference into the full conflicted set.
func (r *resolution) addDifference() error {
	d := &difference{
		resolution: r,
		words:      (len(r.states) + 63) / 64,
		next:       newDescending(r.g.Len()),
		common:     newIndexSet(r.g.Len()),
		dead:       newIndexSet(r.g.Len()),
	}
	if err := d.start(); err != nil {
		return err
	}
	for i, ok := d.next.pop(); ok; i, ok = d.next.pop() {
		if err := d.visit(1); err != nil {
			return err
		}
		if d.common.has(i) {
			continue
		}
		if !d.conflicted.has(i) {
			common, err := d.search(i)
			if err != nil {
				return err
			}
			if common {
				continue
			}
			d.full.add(i)
		}
		for _, a := range d.g.Auth(i) {
			d.meet(a, d.maskOf(i))
		}
	}
	return nil
}

// start puts the conflicted events at the begin of the walk. Their masks say in which states they are: that is what they
// pass on. Whether they are in the difference themselves does not matter.
func (d *difference) start() error {
	bit := make([]uint64, d.words)
	disputed := 0
	for n := range d.conflicts {
		values := d.valuesOf(n)
		if values[0] != authgraph.None {
			disputed++
		}
		for s, i := range values {
			if i != authgraph.None {
				bit[s/64] = 1 << (s % 64)
				d.meet(i, bit)
				bit[s/64] = 0
			}
		}
	}
	if d.states[0].Len() == disputed {
		return nil // U is empty
	}
	newest := d.states[0].Newest()
	for _, m := range d.states[1:] {
		newest = min(newest, m.Newest())
	}
	i, err := d.find(newest)
	if err != nil {
		return err
	}
	d.raise(i)
	return nil
}

func (d *difference) raise(i authgraph.Index) {
	if !d.some || i > d.newest {
		d.newest, d.some = i, true
	}
}

// maskOf returns the mask of an event of the walk.
func (d *difference) maskOf(i authgraph.Index) []uint64 {
	slot := int(d.m.slot.get(uint32(i))) - 1
	return d.m.masks[slot*d.words : (slot+1)*d.words]
}

// meet adds to the mask of an event, which joins the walk if it is new.
func (d *difference) meet(i authgraph.Index, mask []uint64) {
	if d.common.has(i) {
		return
	}
	slot := d.m.slot.at(uint32(i))
	if *slot == 0 {
		*slot = uint32(len(d.m.masks)/d.words) + 1
		for range d.words {
			d.m.masks = append(d.m.masks, 0)
		}
		d.next.push(i)
	}
	own := d.maskOf(i)
	left := len(d.states)
	all := true
	for w := range own {
		own[w] |= mask[w]
		all = all && own[w] == lowBits(left)
		left -= 64
	}
	if all {
		d.addCommon(i)
	}
}

// lowBits has the lowest n bits of a word set, all if n is 64 or more.
func lowBits(n int) uint64 {
	if n >= 64 {
		return ^uint64(0)
	}
	return 1<<n - 1
}

func (d *difference) addCommon(i authgraph.Index) {
	d.common.add(i)
	d.raise(i)
}

// search says whether an event is of U, or has a common descendant (an event from which auth_events lead to it); then it is
// common. All that it learns is kept: no event is searched from twice. That is right because the walk descends: what is
// newer than the event that it has come to does not change any more.
func (d *difference) search(from authgraph.Index) (bool, error) {
	if !d.some || from > d.newest {
		return false, nil
	}
	if d.agreed(from) {
		d.addCommon(from)
		return true, nil
	}
	d.path = append(d.path[:0], step{from, d.g.NewestCitation(from)})
	for len(d.path) > 0 {
		top := &d.path[len(d.path)-1]
		if top.next == 0 || top.at >= d.newest {
			d.dead.add(top.at)
			d.path = d.path[:len(d.path)-1]
			continue
		}
		var by authgraph.Index
		by, top.next = d.g.Citer(top.next)
		if err := d.visit(1); err != nil {
			return false, err
		}
		switch {
		case by > d.newest || d.dead.has(by):
		case d.common.has(by) || d.agreed(by):
			for _, s := range d.path {
				d.addCommon(s.at)
			}
			return true, nil
		default:
			d.path = append(d.path, step{by, d.g.NewestCitation(by)})
		}
	}
	return false, nil
}
