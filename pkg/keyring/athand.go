package keyring

import (
	"context"

	"hanse/pkg/matrix/id"
)

// AtHand says whether a key that was valid at a time, in milliseconds since 1970, is in memory or stored. Nobody has to be
// asked for it then.
func (r *Ring) AtHand(ctx context.Context, n Name, at int64) (bool, error) {
	keys, _ := r.cache.Get(n.Server)
	if keys[n.KeyID].ValidAt(at) {
		return true, nil
	}
	stored, err := r.store.KeysOfAll(ctx, []id.Server{n.Server})
	if err != nil {
		return false, err
	}
	if len(stored[n.Server]) > 0 {
		r.cache.Add(n.Server, stored[n.Server])
	}
	return stored[n.Server][n.KeyID].ValidAt(at), nil
}
