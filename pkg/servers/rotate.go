package servers

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
)

// ensure makes the first key of a name. Of several workers that start at once the first one does.
func (r *Registry) ensure(ctx context.Context, server id.Server) error {
	return r.locked(ctx, server, func(tx pgx.Tx, part int32) error {
		var exists bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM signing_key WHERE part = $1 AND server_name = $2 AND expired_ts IS NULL)`,
			part, string(server)).Scan(&exists)
		if err != nil || exists {
			return err
		}
		key, err := signing.NewKey()
		if err != nil {
			return err
		}
		return r.insert(ctx, tx, part, server, key)
	})
}

// Rotate makes a new key the current one of a local server name. This worker uses it at once, the others
// after their next reload; the keys before it expire a little later. It returns the new key's id.
func (r *Registry) Rotate(ctx context.Context, server id.Server) (string, error) {
	if !r.IsLocal(server) {
		return "", fmt.Errorf("rotate key of %s: %w", server, ErrNotLocal)
	}
	key, err := signing.NewKey()
	if err != nil {
		return "", err
	}
	return key.ID, r.replace(ctx, server, key)
}

// Import makes a key from elsewhere the current one: of the server that this cluster takes over
// from. Without it other servers would not trust old events' signatures any more.
func (r *Registry) Import(ctx context.Context, server id.Server, key *signing.Key) error {
	if !r.IsLocal(server) {
		return fmt.Errorf("import key of %s: %w", server, ErrNotLocal)
	}
	return r.replace(ctx, server, key)
}

func (r *Registry) replace(ctx context.Context, server id.Server, key *signing.Key) error {
	err := r.locked(ctx, server, func(tx pgx.Tx, part int32) error {
		_, err := tx.Exec(ctx, `UPDATE signing_key SET expired_ts = $3 WHERE part = $1 AND server_name = $2 AND expired_ts IS NULL`,
			part, string(server), r.now().Add(overlap).UnixMilli())
		if err != nil {
			return err
		}
		return r.insert(ctx, tx, part, server, key)
	})
	if err != nil {
		return err
	}
	return r.Reload(ctx)
}

// insert stores a key as the newest of its name, whatever this worker's clock says.
func (r *Registry) insert(ctx context.Context, tx pgx.Tx, part int32, server id.Server, key *signing.Key) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO signing_key (part, server_name, key_id, seed, created_ts)
		SELECT $1, $2, $3, $4, greatest($5, 1 + coalesce(max(created_ts), 0))
		FROM signing_key WHERE part = $1 AND server_name = $2`,
		part, string(server), key.ID, key.Private.Seed(), r.now().UnixMilli())
	return err
}

// locked runs f in a transaction that no other worker runs for the same name at the same time.
func (r *Registry) locked(ctx context.Context, server id.Server, f func(tx pgx.Tx, part int32) error) error {
	part := partition.Of(string(server))
	err := pgx.BeginFunc(ctx, r.shards.For(part), func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('signing_key ' || $1, 0))`, string(server)); err != nil {
			return err
		}
		return f(tx, int32(part))
	})
	if err != nil {
		return fmt.Errorf("signing keys of %s: %w", server, err)
	}
	return nil
}
