package mediastore

import (
	"cmp"
	"container/heap"
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// By is what Statistics are sorted by.
type By int

// The orders.
const (
	ByName By = iota
	ByBytes
	ByItems
)

// Statistics says what is asked about users, or about servers.
type Statistics struct {
	// Servers asks for what there is of each server, ours and others, and not for what each user has uploaded.
	Servers bool
	// From and Until, of users, bound when files were uploaded, in milliseconds; Until 0: now.
	From, Until int64
	// Containing is a text that their names contain.
	Containing string
	By         By
	Descending bool
	// Limit is how many are returned.
	Limit int
}

// Share is what a user has uploaded, or what there is of a server.
type Share struct {
	Who string
	Usage
}

const (
	sqlUsersUsage = `
SELECT who, sum(items)::bigint, sum(bytes)::bigint FROM media_usage
WHERE part = ANY($1) AND (who LIKE '@%') <> $3 AND strpos(who, $2) > 0 GROUP BY who HAVING sum(items) > 0 ORDER BY who`
	sqlUsersUploads = `
SELECT user_id, count(*), sum(bytes)::bigint FROM media
WHERE part = ANY($1) AND state = 3 AND user_id IS NOT NULL AND strpos(user_id, $2) > 0 AND created_ts >= $3 AND created_ts <= $4 GROUP BY user_id ORDER BY user_id`
)

// Statistics returns the first in an order, and how many there are. The files of a user or server lie in all shards: their sums are
// read side by side, in the order of the names, so that no more are held than are returned.
func (s *Store) Statistics(ctx context.Context, q Statistics) (first []Share, total int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends what is not read to its end
	var sums []*userSums
	defer func() {
		for _, u := range sums {
			u.rows.Close()
		}
	}()
	for pool, parts := range s.shards.Groups(s.allParts()) {
		var rows pgx.Rows
		if q.From == 0 && q.Until == 0 {
			rows, err = pool.Query(ctx, sqlUsersUsage, ints(parts), q.Containing, q.Servers)
		} else {
			until := q.Until
			if until == 0 {
				until = s.now().UnixMilli()
			}
			rows, err = pool.Query(ctx, sqlUsersUploads, ints(parts), q.Containing, q.From, until)
		}
		if err != nil {
			return nil, 0, err
		}
		u := &userSums{rows: rows}
		sums = append(sums, u)
		if err := u.next(); err != nil {
			return nil, 0, err
		}
	}
	best := &ranking{q: q}
	for {
		u, err := lowest(sums)
		if err != nil || u == nil {
			return best.sorted(), total, err
		}
		total++
		best.add(*u)
	}
}

// userSums is a shard's sums, of which one is known at a time.
type userSums struct {
	rows pgx.Rows
	is   Share
	over bool
}

func (u *userSums) next() error {
	if !u.rows.Next() {
		u.over = true
		return u.rows.Err()
	}
	return u.rows.Scan(&u.is.Who, &u.is.Items, &u.is.Bytes)
}

// lowest takes the next user from all shards; nil if there is none.
func lowest(sums []*userSums) (*Share, error) {
	var low *Share
	for _, u := range sums {
		if !u.over && (low == nil || u.is.Who < low.Who) {
			low = &Share{Who: u.is.Who}
		}
	}
	if low == nil {
		return nil, nil
	}
	for _, u := range sums {
		if u.over || u.is.Who != low.Who {
			continue
		}
		low.Items += u.is.Items
		low.Bytes += u.is.Bytes
		if err := u.next(); err != nil {
			return nil, err
		}
	}
	return low, nil
}

// ranking keeps the first users of an order: a heap with the last of them on top.
type ranking struct {
	q    Statistics
	kept []Share
}

// before says whether a user comes before another.
func (r *ranking) before(a, b Share) bool {
	var c int
	switch r.q.By {
	case ByBytes:
		c = cmp.Compare(a.Bytes, b.Bytes)
	case ByItems:
		c = cmp.Compare(a.Items, b.Items)
	}
	if c = cmp.Or(c, strings.Compare(a.Who, b.Who)); r.q.Descending {
		return c > 0
	}
	return c < 0
}

func (r *ranking) add(u Share) {
	heap.Push(r, u)
	if len(r.kept) > r.q.Limit {
		heap.Pop(r)
	}
}

func (r *ranking) sorted() []Share {
	all := make([]Share, len(r.kept))
	for n := len(all) - 1; n >= 0; n-- {
		all[n] = heap.Pop(r).(Share)
	}
	return all
}

// Len implements heap.Interface.
func (r *ranking) Len() int { return len(r.kept) }

// Less implements heap.Interface.
func (r *ranking) Less(i, j int) bool { return r.before(r.kept[j], r.kept[i]) }

// Swap implements heap.Interface.
func (r *ranking) Swap(i, j int) { r.kept[i], r.kept[j] = r.kept[j], r.kept[i] }

// Push implements heap.Interface.
func (r *ranking) Push(u any) { r.kept = append(r.kept, u.(Share)) }

// Pop implements heap.Interface.
func (r *ranking) Pop() any {
	last := len(r.kept) - 1
	u := r.kept[last]
	r.kept = r.kept[:last]
	return u
}
