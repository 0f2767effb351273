package keyring

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
)

// Name names a key of a server.
type Name struct {
	Server id.Server
	KeyID  string
}

// Key is a verify key of a server.
type Key struct {
	Public ed25519.PublicKey
	// ValidUntil is the last moment at which the key may sign, in milliseconds since 1970: until it must have been
	// seen again for a current key, its end for an old one.
	ValidUntil int64
	// Expired keys verify events only, not requests.
	Expired bool
}

// ValidAt reports whether the key may have signed an event of that time.
func (k Key) ValidAt(ts int64) bool { return k.Public != nil && ts <= k.ValidUntil }

// MaxTrust is how long a key counts as current without having been fetched again (server-server API, "Publishing
// Keys", valid_until_ts).
const MaxTrust = 7 * 24 * time.Hour

// Store reads and writes table server_key.
type Store struct{ shards *pg.Shards }

// NewStore returns the store of a cluster.
func NewStore(shards *pg.Shards) *Store { return &Store{shards} }

const (
	sqlKeys = `
SELECT server_name, key_id, public_key, valid_until_ts, expired FROM server_key
WHERE (part, server_name, key_id) IN (SELECT * FROM unnest($1::int[], $2::text[], $3::text[]))`
	sqlKeysOfAll = `
SELECT server_name, key_id, public_key, valid_until_ts, expired FROM server_key
WHERE (part, server_name) IN (SELECT * FROM unnest($1::int[], $2::text[]))`
	sqlKeysOf = `SELECT key_id, public_key, valid_until_ts, expired FROM server_key WHERE part = $1 AND server_name = $2`
	sqlPut    = `
INSERT INTO server_key AS k (part, server_name, key_id, public_key, valid_until_ts, expired, fetched_ts, response)
SELECT $1, $2, u.key_id, u.public_key, u.valid_until, u.expired, $7, $8
FROM unnest($3::text[], $4::bytea[], $5::bigint[], $6::boolean[]) AS u (key_id, public_key, valid_until, expired)
ON CONFLICT (part, server_name, key_id) DO UPDATE SET public_key = excluded.public_key, expired = excluded.expired,
    valid_until_ts = CASE WHEN NOT excluded.expired AND NOT k.expired AND k.public_key = excluded.public_key
        THEN greatest(k.valid_until_ts, excluded.valid_until_ts) ELSE excluded.valid_until_ts END,
    fetched_ts = excluded.fetched_ts, response = excluded.response
WHERE k.fetched_ts <= excluded.fetched_ts`
	sqlResponses = `
SELECT key_id, response, valid_until_ts, fetched_ts FROM server_key WHERE part = $1 AND server_name = $2 ORDER BY fetched_ts DESC`
)

// Keys returns those of the keys that are stored.
func (s *Store) Keys(ctx context.Context, names []Name) (map[Name]Key, error) {
	found := make(map[Name]Key, len(names))
	type columns struct {
		parts         []int32
		servers, keys []string
	}
	shards := make(map[querier]*columns, 1)
	for _, n := range names {
		part := partition.Of(string(n.Server))
		pool := s.shards.For(part)
		c := shards[pool]
		if c == nil {
			c = new(columns)
			shards[pool] = c
		}
		c.parts, c.servers, c.keys = append(c.parts, int32(part)), append(c.servers, string(n.Server)), append(c.keys, n.KeyID)
	}
	for pool, c := range shards {
		rows, err := pool.Query(ctx, sqlKeys, c.parts, c.servers, c.keys)
		if err != nil {
			return nil, fmt.Errorf("read server keys: %w", err)
		}
		var n Name
		var k Key
		_, err = pgx.ForEachRow(rows, []any{&n.Server, &n.KeyID, (*[]byte)(&k.Public), &k.ValidUntil, &k.Expired}, func() error {
			found[n] = k
			k.Public = nil // the next row's bytes are its own
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read server keys: %w", err)
		}
	}
	return found, nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// KeysOfAll returns all stored keys of some servers by their ids, with one query for each shard.
func (s *Store) KeysOfAll(ctx context.Context, servers []id.Server) (map[id.Server]map[string]Key, error) {
	type columns struct {
		parts   []int32
		servers []string
	}
	shards := make(map[querier]*columns, 1)
	for _, server := range servers {
		part := partition.Of(string(server))
		pool := s.shards.For(part)
		c := shards[pool]
		if c == nil {
			c = new(columns)
			shards[pool] = c
		}
		c.parts, c.servers = append(c.parts, int32(part)), append(c.servers, string(server))
	}
	found := make(map[id.Server]map[string]Key, len(servers))
	for pool, c := range shards {
		rows, err := pool.Query(ctx, sqlKeysOfAll, c.parts, c.servers)
		if err != nil {
			return nil, fmt.Errorf("read server keys: %w", err)
		}
		var n Name
		var k Key
		_, err = pgx.ForEachRow(rows, []any{&n.Server, &n.KeyID, (*[]byte)(&k.Public), &k.ValidUntil, &k.Expired}, func() error {
			if found[n.Server] == nil {
				found[n.Server] = make(map[string]Key, 1)
			}
			found[n.Server][n.KeyID] = k
			k.Public = nil // the next row's bytes are its own
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read server keys: %w", err)
		}
	}
	return found, nil
}

// KeysOf returns all stored keys of a server by their ids.
func (s *Store) KeysOf(ctx context.Context, server id.Server) (map[string]Key, error) {
	part := partition.Of(string(server))
	rows, err := s.shards.For(part).Query(ctx, sqlKeysOf, int32(part), string(server))
	if err != nil {
		return nil, fmt.Errorf("read keys of %s: %w", server, err)
	}
	found := make(map[string]Key)
	var keyID string
	var k Key
	_, err = pgx.ForEachRow(rows, []any{&keyID, (*[]byte)(&k.Public), &k.ValidUntil, &k.Expired}, func() error {
		found[keyID] = k
		k.Public = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read keys of %s: %w", server, err)
	}
	return found, nil
}

// Put stores the keys of one answer, which was verified. A row that came from a newer answer stays.
func (s *Store) Put(ctx context.Context, server id.Server, keys map[string]Key, response []byte, fetched time.Time) error {
	part := partition.Of(string(server))
	ids, publics := make([]string, 0, len(keys)), make([][]byte, 0, len(keys))
	until, expired := make([]int64, 0, len(keys)), make([]bool, 0, len(keys))
	for keyID, k := range keys {
		ids, publics = append(ids, keyID), append(publics, k.Public)
		until, expired = append(until, k.ValidUntil), append(expired, k.Expired)
	}
	_, err := s.shards.For(part).Exec(ctx, sqlPut, int32(part), string(server), ids, publics, until, expired,
		fetched.UnixMilli(), response)
	if err != nil {
		return fmt.Errorf("store keys of %s: %w", server, err)
	}
	return nil
}

// Response is a stored answer of GET /_matrix/key/v2/server, for notary queries.
type Response struct {
	// KeyIDs are those whose newest answer this is.
	KeyIDs []string
	// JSON is the answer with the signatures of its server, as it came.
	JSON []byte
	// ValidUntil and Fetched are in milliseconds since 1970.
	ValidUntil, Fetched int64
}

// Responses returns the stored answers of a server, newest first, each once.
func (s *Store) Responses(ctx context.Context, server id.Server) ([]Response, error) {
	part := partition.Of(string(server))
	rows, err := s.shards.For(part).Query(ctx, sqlResponses, int32(part), string(server))
	if err != nil {
		return nil, fmt.Errorf("read key answers of %s: %w", server, err)
	}
	var out []Response
	var keyID string
	var r Response
	_, err = pgx.ForEachRow(rows, []any{&keyID, &r.JSON, &r.ValidUntil, &r.Fetched}, func() error {
		for i := range out {
			if string(out[i].JSON) == string(r.JSON) {
				out[i].KeyIDs = append(out[i].KeyIDs, keyID)
				out[i].ValidUntil = max(out[i].ValidUntil, r.ValidUntil)
				return nil
			}
		}
		r.KeyIDs = []string{keyID}
		out = append(out, r)
		r = Response{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read key answers of %s: %w", server, err)
	}
	return out, nil
}
