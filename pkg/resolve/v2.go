package resolve

import "hanse/pkg/authgraph"

// resolveV2 is the "Algorithm" of room versions 2 to 11 and, with the two modifications of MSC4297, of version 12.
func (r *resolution) resolveV2() error {
	if err := r.fullConflictedSet(); err != nil {
		return err
	}
	if err := r.findCreate(); err != nil {
		return err
	}
	unknown, err := r.loadFull()
	if err != nil {
		return err
	}
	if err := r.loadAnswers(unknown); err != nil {
		return err
	}

	// 1. Select the power events, and what authorises them.
	x, err := r.powerSet()
	if err != nil {
		return err
	}
	powerEvents, err := r.powerOrdering(&x)
	if err != nil {
		return err
	}

	// 2. Apply them.
	if err := r.replay(powerEvents); err != nil {
		return err
	}

	// 3. Order the rest along the power levels that came out.
	rest := make([]authgraph.Index, 0, r.full.n-x.n)
	for i := range r.full.all() {
		if !x.has(i) {
			rest = append(rest, i)
		}
	}
	levels, err := r.heldLevels()
	if err != nil {
		return err
	}
	if err := r.mainlineOrdering(rest, levels); err != nil {
		return err
	}

	// 4. Apply them as well. What was not in conflict stays as it was: see result.
	return r.replay(rest)
}

// heldLevels is the power levels event of the state under construction, None for none.
func (r *resolution) heldLevels() (authgraph.Index, error) {
	key, ok := r.g.FindKey(powerLevelsKey)
	if !ok {
		return authgraph.None, nil
	}
	return r.held(key)
}

// fullConflictedSet is the union of the conflicted state set, the auth difference and, since version 12, the conflicted
// state subgraph.
func (r *resolution) fullConflictedSet() error {
	r.full = newIndexSet(r.g.Len())
	for i := range r.conflicted.all() {
		r.full.add(i)
	}
	if err := r.addDifference(); err != nil {
		return err
	}
	if r.rules.StateRes == 21 {
		if err := r.addSubgraph(); err != nil {
			return err
		}
	}
	r.Full = r.full.n
	return nil
}
