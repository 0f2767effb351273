package servers

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/matrix/id"
)

// Served returns the names that the cluster on these databases has served so far, sorted: those that have a signing
// key. A new cluster has none.
func Served(ctx context.Context, shards interface{ All() []*pgxpool.Pool }) ([]id.Server, error) {
	var names []id.Server
	for _, pool := range shards.All() {
		rows, err := pool.Query(ctx, `SELECT DISTINCT server_name FROM signing_key`)
		if err != nil {
			return nil, fmt.Errorf("read the names that the cluster serves: %w", err)
		}
		some, err := pgx.CollectRows(rows, pgx.RowTo[id.Server])
		if err != nil {
			return nil, fmt.Errorf("read the names that the cluster serves: %w", err)
		}
		names = append(names, some...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
