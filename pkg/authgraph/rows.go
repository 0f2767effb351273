package authgraph

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"hanse/pkg/roomdb/eventsql"
)

// DB is what a Store needs of a pool that reaches the room's shard.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Room names a room.
type Room struct {
	Part uint32
	NID  int64
}

const (
	selectBlocks = `SELECT seq, last_nid, data FROM auth_block WHERE part = $1 AND room_nid = $2 ORDER BY seq`

	// A block follows from rows that never change: whoever writes it, and as often as it is written, it is the same.
	insertBlocks = `
INSERT INTO auth_block (part, room_nid, seq, last_nid, data)
SELECT $1, $2, * FROM unnest($3::integer[], $4::bigint[], $5::bytea[])
ON CONFLICT DO NOTHING`

	deleteBlocks = `DELETE FROM auth_block WHERE part = $1 AND room_nid = $2`
)

// readBlocks adds the stored blocks of a room to an empty graph, as far as there is none missing between them.
func (s *Store) readBlocks(ctx context.Context, db DB, room Room, g *Graph) (sealed int, err error) {
	rows, err := db.Query(ctx, selectBlocks, int32(room.Part), room.NID)
	if err != nil {
		return 0, fmt.Errorf("read auth blocks: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq int
		var last int64
		var data []byte
		if err := rows.Scan(&seq, &last, &data); err != nil {
			return 0, fmt.Errorf("read auth blocks: %w", err)
		}
		if seq != sealed/s.block {
			break
		}
		if err := g.addBlock(data, s.block); err != nil {
			return 0, fmt.Errorf("auth block %d of room %d/%d: %w", seq, room.Part, room.NID, err)
		}
		if g.Last() != last {
			return 0, fmt.Errorf("auth block %d of room %d/%d: %w: ends at %d, not %d", seq, room.Part, room.NID, ErrCorrupt, g.Last(), last)
		}
		sealed += s.block
	}
	rows.Close() // also if there are more
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("read auth blocks: %w", err)
	}
	return sealed, nil
}

// pageRows is how many rows one query brings.
const pageRows = 20_000

// readNodes calls add with the state events behind a numeric id, some at a time.
func readNodes(ctx context.Context, db DB, room Room, behind int64, add func([]Node) error) error {
	for {
		rows, err := db.Query(ctx, eventsql.Nodes, int32(room.Part), room.NID, behind, pageRows)
		if err != nil {
			return fmt.Errorf("read state events: %w", err)
		}
		nodes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n Node, err error) {
			var flags int32
			err = row.Scan(&n.NID, &n.Key.Type, &n.Key.StateKey, &n.Auth, &flags)
			n.Rejected = flags&eventsql.Rejected != 0
			return n, err
		})
		if err != nil {
			return fmt.Errorf("read state events: %w", err)
		}
		if len(nodes) > 0 {
			if err := add(nodes); err != nil {
				return fmt.Errorf("auth graph of room %d/%d: %w", room.Part, room.NID, err)
			}
			behind = nodes[len(nodes)-1].NID
		}
		if len(nodes) < pageRows {
			return nil
		}
	}
}

// addAll adds nodes, within the bound of a graph.
func (g *Graph) addAll(nodes []Node) error {
	if g.Len()+len(nodes) > MaxEvents {
		return fmt.Errorf("%w: more than %d state events", ErrTooMany, MaxEvents)
	}
	for i := range nodes {
		if err := g.Add(nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

// seal stores the blocks that are full and not stored yet. Only events that are in PostgreSQL may be in the graph.
func (s *Store) seal(ctx context.Context, db DB, room Room, g *Graph, sealed int) (int, error) {
	for g.Len()-sealed >= s.block {
		var seqs []int32
		var lasts []int64
		var blocks [][]byte
		for ; g.Len()-sealed >= s.block && len(seqs) < sealAtOnce; sealed += s.block {
			to := sealed + s.block
			seqs = append(seqs, int32(sealed/s.block))
			lasts = append(lasts, g.nids[to-1])
			blocks = append(blocks, g.encodeBlock(Index(sealed), Index(to)))
		}
		if _, err := db.Exec(ctx, insertBlocks, int32(room.Part), room.NID, seqs, lasts, blocks); err != nil {
			return sealed - len(seqs)*s.block, fmt.Errorf("store auth blocks: %w", err)
		}
		s.sealed.Add(float64(len(seqs)))
	}
	return sealed, nil
}

// sealAtOnce is how many blocks one statement writes.
const sealAtOnce = 32
