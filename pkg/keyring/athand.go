package keyring

import "context"

// AtHand says whether a key that was valid at a time, in milliseconds since 1970, is in memory or stored. Nobody has to be
// asked for it then.
func (r *Ring) AtHand(ctx context.Context, n Name, at int64) (bool, error) {
	if k, ok := r.cache.Get(n); ok && k.ValidAt(at) {
		return true, nil
	}
	stored, err := r.store.Keys(ctx, []Name{n})
	if err != nil {
		return false, err
	}
	k, ok := stored[n]
	if !ok || !k.ValidAt(at) {
		return false, nil
	}
	r.cache.Add(n, k)
	return true, nil
}
