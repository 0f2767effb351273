package mediastore

import (
	"cmp"
	"container/heap"
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
)

// By is what Statistics are sorted by.
type By int

// The orders.
const (
	ByUser By = iota
	ByBytes
	ByItems
)

// Statistics says what is asked about users.
type Statistics struct {
	// From and Until bound when files were uploaded, in milliseconds; Until 0: now.
	From, Until int64
	// Containing is a text that user ids contain.
	Containing string
	By         By
	Descending bool
	// Limit is how many users are returned.
	Limit int
}

// UserStatistics is what a user has uploaded, as far as it is there.
type UserStatistics struct {
	User id.User
	Usage
}

const (
	sqlUsersUsage = `
SELECT who, sum(items)::bigint, sum(bytes)::bigint FROM media_usage
WHERE part = ANY($1) AND who LIKE '@%' AND strpos(who, $2) > 0 GROUP BY who HAVING sum(items) > 0 ORDER BY who`
	sqlUsersUploads = `
SELECT user_id, count(*), sum(bytes)::bigint FROM media
WHERE part = ANY($1) AND state = 3 AND user_id IS NOT NULL AND strpos(user_id, $2) > 0 AND created_ts >= $3 AND created_ts <= $4 GROUP BY user_id ORDER BY user_id`
)

// Statistics returns the first users in an order, and how many there are. The files of a user lie in all shards: their sums are
// read side by side, in the order of the user ids, so that no more users are held than are returned.
func (s *Store) Statistics(ctx context.Context, q Statistics) (first []UserStatistics, total int64, err error) {
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
			rows, err = pool.Query(ctx, sqlUsersUsage, ints(parts), q.Containing)
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
	is   UserStatistics
	over bool
}

func (u *userSums) next() error {
	if !u.rows.Next() {
		u.over = true
		return u.rows.Err()
	}
	return u.rows.Scan(&u.is.User, &u.is.Items, &u.is.Bytes)
}

// lowest takes the next user from all shards; nil if there is none.
func lowest(sums []*userSums) (*UserStatistics, error) {
	var low *UserStatistics
	for _, u := range sums {
		if !u.over && (low == nil || u.is.User < low.User) {
			low = &UserStatistics{User: u.is.User}
		}
	}
	if low == nil {
		return nil, nil
	}
	for _, u := range sums {
		if u.over || u.is.User != low.User {
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
	kept []UserStatistics
}

// before says whether a user comes before another.
func (r *ranking) before(a, b UserStatistics) bool {
	var c int
	switch r.q.By {
	case ByBytes:
		c = cmp.Compare(a.Bytes, b.Bytes)
	case ByItems:
		c = cmp.Compare(a.Items, b.Items)
	}
	if c = cmp.Or(c, strings.Compare(string(a.User), string(b.User))); r.q.Descending {
		return c > 0
	}
	return c < 0
}

func (r *ranking) add(u UserStatistics) {
	heap.Push(r, u)
	if len(r.kept) > r.q.Limit {
		heap.Pop(r)
	}
}

func (r *ranking) sorted() []UserStatistics {
	all := make([]UserStatistics, len(r.kept))
	for n := len(all) - 1; n >= 0; n-- {
		all[n] = heap.Pop(r).(UserStatistics)
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
func (r *ranking) Push(u any) { r.kept = append(r.kept, u.(UserStatistics)) }

// Pop implements heap.Interface.
func (r *ranking) Pop() any {
	last := len(r.kept) - 1
	u := r.kept[last]
	r.kept = r.kept[:last]
	return u
}
