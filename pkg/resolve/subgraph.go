package resolve

import "hanse/pkg/authgraph"

// addSubgraph puts the conflicted state subgraph (room version 12, MSC4297) into the full conflicted set: what lies on a
// path of auth_events from one conflicted event to another. That is what a walk down from the conflicted events reaches
// and what leads to one; no such event is older than the oldest conflicted event that is cited at all.
func (r *resolution) addSubgraph() error {
	low := r.oldestCited()
	if low == authgraph.None {
		return nil
	}
	reached := newIndexSet(r.g.Len())
	work := r.conflicted.list()
	for len(work) > 0 {
		i := work[len(work)-1]
		work = work[:len(work)-1]
		if err := r.visit(1 + len(r.g.Auth(i))); err != nil {
			return err
		}
		for _, a := range r.g.Auth(i) {
			if a >= low && reached.add(a) && !r.conflicted.has(a) {
				work = append(work, a)
			}
		}
	}
	leads := newIndexSet(r.g.Len())
	for i := range reached.all() { // ascending: what an event cites comes before it
		for _, a := range r.g.Auth(i) {
			if r.conflicted.has(a) || leads.has(a) {
				leads.add(i)
				r.full.add(i)
				break
			}
		}
	}
	return nil
}

// oldestCited returns the oldest conflicted event that any event cites, None if there is none.
func (r *resolution) oldestCited() authgraph.Index {
	for i := range r.conflicted.all() {
		if r.g.NewestCitation(i) != 0 {
			return i
		}
	}
	return authgraph.None
}
