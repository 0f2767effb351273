package search

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
)

const (
	// MaxQuery bounds the words of a query.
	MaxQuery = 32
	// maxMatches bounds the matches in one room that are looked at.
	maxMatches = 10_000
)

// Key is the place of a result in the order of results.
type Key struct {
	// Length is the number of words in the text, when results are ordered by rank: the fewer other words, the better.
	Length int64
	TS     int64
	Part   uint32
	NID    int64
}

// Query asks for events that have all of some words.
type Query struct {
	Words  []string
	Fields []Field
	Rooms  []roomdb.RoomKey
	// ByRank orders by rank; otherwise the newest come first.
	ByRank bool
	// After is the last result of the page before; nil for the first page.
	After *Key
	Limit int
}

// Hit is a result.
type Hit struct {
	Key
	Room int64
	// Gone says that the event was redacted, or lost its place, since.
	Gone bool
}

// Rank says how closely a result matches a query: 1 if its text has no other words.
func (h *Hit) Rank(q *Query) float64 { return float64(len(q.Words)) / float64(max(h.Length, 1)) }

// Find returns results in order, at most q.Limit.
func Find(ctx context.Context, shards *pg.Shards, q Query) (hits []Hit, err error) {
	if len(q.Words) == 0 || len(q.Rooms) == 0 || q.Limit <= 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	rooms := make(map[*pgxpool.Pool][]roomdb.RoomKey, 1)
	for _, r := range q.Rooms {
		pool := shards.For(r.Part)
		rooms[pool] = append(rooms[pool], r)
	}
	for pool, in := range rooms {
		found, err := q.find(ctx, pool, in)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, ErrTimeout
		}
		if err != nil {
			return nil, fmt.Errorf("search: %w", err)
		}
		hits = append(hits, found...)
	}
	slices.SortFunc(hits, q.compare)
	return hits[:min(len(hits), q.Limit)], nil
}

// find returns the results in rooms of one shard.
func (q *Query) find(ctx context.Context, pool *pgxpool.Pool, rooms []roomdb.RoomKey) (hits []Hit, err error) {
	parts, nids := make([]int32, len(rooms)), make([]int64, len(rooms))
	for i, r := range rooms {
		parts[i], nids[i] = int32(r.Part), r.NID
	}
	fields := make([]int16, len(q.Fields))
	for i, f := range q.Fields {
		fields[i] = int16(f)
	}
	after := Key{TS: math.MaxInt64}
	if q.After != nil {
		after = *q.After
	}
	sql := sqlRecent
	if q.ByRank {
		sql = sqlRanked
	}
	rows, err := pool.Query(ctx, sql, parts, nids, tsquery(q.Words), fields, maxMatches, q.Limit, after.TS, int32(after.Part), after.NID, after.Length)
	if err != nil {
		return nil, err
	}
	var h Hit
	_, err = pgx.ForEachRow(rows, []any{&h.Part, &h.Room, &h.NID, &h.TS, &h.Length, &h.Gone}, func() error {
		hits = append(hits, h)
		return nil
	})
	return hits, err
}

const (
	// behind is what comes after a key of the same rank.
	behind = `(ts < $7 OR ts = $7 AND (p, event_nid) > ($8::int, $9::bigint))`

	// sqlFind looks up all matches, as far as they count, sorts them by their rows in the index alone, and looks at the events of
	// those that are returned.
	sqlFind = `
WITH m AS MATERIALIZED (
	SELECT k.p, k.n, s.event_nid, s.ts, s.len FROM unnest($1::int[], $2::bigint[]) AS k (p, n) CROSS JOIN LATERAL (
		SELECT event_nid, ts, length(words)::bigint AS len FROM search
		WHERE part = k.p AND room_nid = k.n AND words @@ $3::tsquery AND field = ANY($4) LIMIT $5) s)
SELECT t.p, t.n, t.event_nid, t.ts, t.len, e.ord IS NULL OR e.redacted_by IS NOT NULL
FROM (SELECT * FROM m WHERE %s ORDER BY %s ts DESC, p, event_nid LIMIT $6) t
CROSS JOIN LATERAL (SELECT event_nid, ord, redacted_by FROM event WHERE part = t.p AND event_nid >= t.event_nid ORDER BY event_nid LIMIT 1) e
WHERE e.event_nid = t.event_nid`
)

var (
	sqlRecent = fmt.Sprintf(sqlFind, behind+` AND $10::bigint IS NOT NULL`, ``)
	sqlRanked = fmt.Sprintf(sqlFind, `(len > $10::bigint OR len = $10 AND `+behind+`)`, `len,`)
)

// compare orders results.
func (q *Query) compare(a, b Hit) int {
	if q.ByRank && a.Length != b.Length {
		return cmp.Compare(a.Length, b.Length)
	}
	return cmp.Or(cmp.Compare(b.TS, a.TS), cmp.Compare(a.Part, b.Part), cmp.Compare(a.NID, b.NID))
}

// tsquery asks for all of some words.
func tsquery(words []string) string {
	quote := strings.NewReplacer(`'`, `''`, `\`, `\\`)
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = `'` + quote.Replace(w) + `'`
	}
	return strings.Join(quoted, " & ")
}
