package admin

import (
	"context"
	"fmt"

	"hanse/pkg/search"
)

// RebuildSearch makes the index of words anew, from one partition on, and tells which are done.
func (a *Admin) RebuildSearch(ctx context.Context, from uint32, done func(part, of uint32)) error {
	for part := from; part < a.shards.P(); part++ {
		for after := int64(0); ; {
			last, err := search.Rebuild(ctx, a.shards, part, after)
			if err != nil {
				return fmt.Errorf("partition %d: %w", part, err)
			}
			if last == 0 {
				break
			}
			after = last
		}
		done(part, a.shards.P())
	}
	return nil
}
