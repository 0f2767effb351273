package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrNotFound is returned for a snapshot that is not stored.
var ErrNotFound = errors.New("snapshot not found")

// Ref names a snapshot.
type Ref struct {
	Part uint32
	SID  int64
}

// Querier is what reads need of a pool, connection or transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// hop is a step from a snapshot to the ancestor that it is stored against.
type hop struct {
	sid, next int64 // next is 0 at the end of the path
	span      int64
	seg       bool  // the payload is a segment's, not the snapshot's own delta
	size      int64 // of the payload
	payload   []byte
}

// path leads from a snapshot to the empty state.
type path struct {
	ref  Ref
	hops []hop
}

func (p *path) complete() error {
	switch n := len(p.hops); {
	case n == 0:
		return fmt.Errorf("snapshot %d/%d: %w", p.ref.Part, p.ref.SID, ErrNotFound)
	case p.hops[n-1].next != 0:
		// An ancestor is only missing if the snapshot is being collected.
		return fmt.Errorf("snapshot %d/%d: ancestor %d: %w", p.ref.Part, p.ref.SID, p.hops[n-1].next, ErrNotFound)
	}
	return nil
}

const (
	// smallPayload is read along with the walk; what is larger is read only if the
	// cache has no nearer ancestor. Rows below 2 kB lie in the table's own pages.
	smallPayload = 2000
	// nearHops is how far a reader follows parents one by one to find a state that
	// it has in its cache.
	nearHops = 2 * fan
	// fetchBytes bounds the payloads that one query brings.
	fetchBytes = 32 << 20
)

// Laterals with a limit keep the planner to one index look-up a step, whatever it
// believes about the size of the tables.
const walkSQL = `
WITH RECURSIVE walk AS (
    SELECT w.i, w.part, 0 AS n, d.sid, d.next, d.span, d.seg, d.size, d.payload
    FROM unnest($1::integer[], $2::bigint[]) WITH ORDINALITY AS w(part, sid, i), LATERAL (` + stepSQL + `) d
  UNION ALL
    SELECT w.i, w.part, w.n + 1, d.sid, d.next, d.span, d.seg, d.size, d.payload
    FROM (SELECT i, part, n, next AS sid FROM walk WHERE next <> 0) w, LATERAL (` + stepSQL + `) d
)
SELECT i, sid, next, span, seg, size, payload FROM walk ORDER BY i, n`

const stepSQL = `
        SELECT d.sid, coalesce(g.back, d.parent) AS next, coalesce(g.span, 1) AS span, g.sid IS NOT NULL AS seg,
               octet_length(coalesce(g.data, d.delta))::bigint AS size,
               CASE WHEN octet_length(coalesce(g.data, d.delta)) <= $3 THEN coalesce(g.data, d.delta) END AS payload
        FROM state_delta d LEFT JOIN state_seg g ON g.part = d.part AND g.sid = d.sid
        WHERE d.part = w.part AND d.sid = w.sid LIMIT 1`

const nearSQL = `
WITH RECURSIVE walk AS (
    SELECT w.i, w.part, 1 AS n, d.sid, d.parent, d.delta
    FROM unnest($1::integer[], $2::bigint[]) WITH ORDINALITY AS w(part, sid, i), LATERAL (` + nearStepSQL + `) d
  UNION ALL
    SELECT w.i, w.part, w.n + 1, d.sid, d.parent, d.delta
    FROM (SELECT i, part, n, parent AS sid FROM walk WHERE parent <> 0 AND n < $4) w, LATERAL (` + nearStepSQL + `) d
)
SELECT i, sid, parent, 1::bigint, false, coalesce(octet_length(delta), -1)::bigint, delta FROM walk ORDER BY i, n`

const nearStepSQL = `
        SELECT d.sid, d.parent, CASE WHEN octet_length(d.delta) <= $3 THEN d.delta END AS delta
        FROM state_delta d WHERE d.part = w.part AND d.sid = w.sid LIMIT 1`

// walkPaths reads the paths of snapshots by the longest leaps, in one query, with
// the payloads that are small.
func walkPaths(ctx context.Context, db Querier, refs []Ref) ([]path, error) {
	return queryPaths(ctx, db, refs, walkSQL, smallPayload)
}

// nearPaths reads the nearest ancestors one by one, in one query.
func nearPaths(ctx context.Context, db Querier, refs []Ref) ([]path, error) {
	return queryPaths(ctx, db, refs, nearSQL, smallPayload, nearHops)
}

func queryPaths(ctx context.Context, db Querier, refs []Ref, sql string, more ...any) ([]path, error) {
	parts, sids := make([]int32, len(refs)), make([]int64, len(refs))
	paths := make([]path, len(refs))
	for i, r := range refs {
		parts[i], sids[i], paths[i].ref = int32(r.Part), r.SID, r
	}
	rows, err := db.Query(ctx, sql, append([]any{parts, sids}, more...)...)
	if err != nil {
		return nil, fmt.Errorf("walk state snapshots: %w", err)
	}
	var i int64
	var h hop
	_, err = pgx.ForEachRow(rows, []any{&i, &h.sid, &h.next, &h.span, &h.seg, &h.size, &h.payload}, func() error {
		p := &paths[i-1]
		p.hops = append(p.hops, h)
		h.payload = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk state snapshots: %w", err)
	}
	return paths, nil
}

// wanted is a payload that the walk left out.
type wanted struct {
	part uint32
	hop  *hop
}

func missing(part uint32, hops []hop) []wanted {
	var out []wanted
	for i := range hops {
		if hops[i].payload == nil {
			out = append(out, wanted{part, &hops[i]})
		}
	}
	return out
}

// A segment may have been stored since the walk: the row that the walk saw is the one
// to read.
const payloadSQL = `
SELECT w.i, p.payload
FROM unnest($1::integer[], $2::bigint[], $3::boolean[]) WITH ORDINALITY AS w(part, sid, seg, i), LATERAL (
    SELECT data AS payload FROM state_seg WHERE part = w.part AND sid = w.sid AND w.seg
  UNION ALL
    SELECT delta FROM state_delta WHERE part = w.part AND sid = w.sid AND NOT w.seg
) p`

// fetchPayloads reads payloads: in one query, unless they are very large.
func fetchPayloads(ctx context.Context, db Querier, want []wanted) error {
	for len(want) > 0 {
		n := 0
		for bytes := int64(0); n < len(want) && bytes < fetchBytes; n++ {
			bytes += want[n].hop.size
		}
		if err := fetchSome(ctx, db, want[:n]); err != nil {
			return err
		}
		want = want[n:]
	}
	return nil
}

func fetchSome(ctx context.Context, db Querier, want []wanted) error {
	parts, sids, segs := make([]int32, len(want)), make([]int64, len(want)), make([]bool, len(want))
	for i, w := range want {
		parts[i], sids[i], segs[i] = int32(w.part), w.hop.sid, w.hop.seg
	}
	rows, err := db.Query(ctx, payloadSQL, parts, sids, segs)
	if err != nil {
		return fmt.Errorf("read state payloads: %w", err)
	}
	var i int64
	var b []byte
	_, err = pgx.ForEachRow(rows, []any{&i, &b}, func() error {
		want[i-1].hop.payload = b
		b = nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("read state payloads: %w", err)
	}
	for _, w := range want {
		if w.hop.payload == nil {
			return fmt.Errorf("snapshot %d/%d: %w", w.part, w.hop.sid, ErrNotFound)
		}
	}
	return nil
}
