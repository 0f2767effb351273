// Package destination keeps what is known of the health of other servers (table destination): how often in a row they
// failed, and when they are tried again. All workers share it; a worker's own memory of it is a hint with a short
// life, which a wake-up on the bus ends.
package destination

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
)

// The pause after a failure doubles from First to Longest.
const (
	First   = 2 * time.Second
	Longest = 24 * time.Hour
)

// believe is how long a worker trusts its memory of a destination.
const believe = 30 * time.Second

// seenEvery bounds how often traffic from one server is looked at.
const seenEvery = 10 * time.Second

// State is the health of a destination. The zero value is that of one that never failed.
type State struct {
	// Failures in a row.
	Failures int
	// RetryAfter is when it may be tried again.
	RetryAfter time.Time
}

// BackingOff reports whether it is too early for a request.
func (s State) BackingOff(now time.Time) bool { return now.Before(s.RetryAfter) }

// Bus wakes the worker that sends to a partition's destinations.
type Bus interface {
	WakeFedout(part uint32) error
}

// Store reads and writes the health of destinations. It is safe for concurrent use.
type Store struct {
	shards *pg.Shards
	bus    Bus
	now    func() time.Time

	mu    sync.Mutex
	known *simplelru.LRU[id.Server, known]
	// failing are those of the known that failed, by partition.
	failing map[uint32]map[id.Server]bool
	seen    *simplelru.LRU[id.Server, time.Time]
}

type known struct {
	State
	until time.Time
}

// remembered bounds the servers that a worker holds something of.
const remembered = 50_000

// New returns the store of a cluster.
func New(shards *pg.Shards, bus Bus) *Store {
	s := &Store{shards: shards, bus: bus, now: time.Now, failing: make(map[uint32]map[id.Server]bool)}
	var err error
	forget := func(server id.Server, k known) {
		if k.Failures > 0 {
			delete(s.failing[partition.Of(string(server))], server)
		}
	}
	if s.known, err = simplelru.NewLRU(remembered, forget); err != nil {
		panic(err) // only for a size below one
	}
	if s.seen, err = simplelru.NewLRU[id.Server, time.Time](remembered, nil); err != nil {
		panic(err)
	}
	return s
}

// Delay is how long a destination is left alone after so many failures in a row: exponential, with jitter of a fifth.
func Delay(failures int) time.Duration {
	d := Longest
	if failures < 17 {
		d = min(Longest, First<<max(failures-1, 0))
	}
	return d*4/5 + rand.N(d*2/5)
}

const (
	sqlGet    = `SELECT failures, retry_after FROM destination WHERE part = $1 AND server_name = $2`
	sqlFailed = `
INSERT INTO destination AS d (part, server_name, failures, retry_after, last_failure) VALUES ($1, $2, 1, $3, $4)
ON CONFLICT (part, server_name) DO UPDATE SET failures = d.failures + 1,
    retry_after = $4::bigint + least($5::float8 * power(2, least(d.failures, 40)), $6::float8)::bigint, last_failure = $4
WHERE d.retry_after <= $4 AND d.last_success <= $7
RETURNING failures, retry_after`
	sqlSucceeded = `
UPDATE destination SET failures = 0, retry_after = 0, last_success = greatest(last_success, $3)
WHERE part = $1 AND server_name = $2 AND failures > 0 AND last_failure <= $3`
	sqlFailing = `SELECT server_name, failures, retry_after FROM destination WHERE part = $1 AND failures > 0`
)

// Get returns the state of a destination, from memory if that is recent.
func (s *Store) Get(ctx context.Context, server id.Server) (State, error) {
	s.mu.Lock()
	k, ok := s.known.Get(server)
	s.mu.Unlock()
	if ok && s.now().Before(k.until) {
		return k.State, nil
	}
	return s.read(ctx, server)
}

func (s *Store) read(ctx context.Context, server id.Server) (State, error) {
	part := partition.Of(string(server))
	var failures int
	var retry int64
	err := s.shards.For(part).QueryRow(ctx, sqlGet, int32(part), string(server)).Scan(&failures, &retry)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return State{}, fmt.Errorf("read destination %s: %w", server, err)
	}
	return s.note(server, failures, retry), nil
}

func (s *Store) note(server id.Server, failures int, retry int64) State {
	st := State{Failures: failures}
	if retry > 0 {
		st.RetryAfter = time.UnixMilli(retry)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known.Remove(server) // Add would not tell of the old state
	s.known.Add(server, known{st, s.now().Add(believe)})
	if failures > 0 {
		part := partition.Of(string(server))
		if s.failing[part] == nil {
			s.failing[part] = make(map[id.Server]bool)
		}
		s.failing[part][server] = true
	}
	return st
}

// Failed notes the failure of a request and returns when to try again. Failures of requests that were under way together count
// once, and one of a request that began before the last success that was noted, not at all.
func (s *Store) Failed(ctx context.Context, server id.Server, began time.Time) (State, error) {
	part, now := partition.Of(string(server)), s.now()
	base := Delay(1).Milliseconds()
	var failures int
	var retry int64
	err := s.shards.For(part).QueryRow(ctx, sqlFailed, int32(part), string(server), now.UnixMilli()+base,
		now.UnixMilli(), float64(base), float64(Delay(100).Milliseconds()), began.UnixMilli()).Scan(&failures, &retry)
	if errors.Is(err, pgx.ErrNoRows) { // counted already, or out of date
		return s.read(ctx, server)
	}
	if err != nil {
		return State{}, fmt.Errorf("note failure of %s: %w", server, err)
	}
	return s.note(server, failures, retry), nil
}

// Succeeded notes that a destination answered at a time: failures that were noted later stand. For one that did not fail
// before it costs a query now and then.
func (s *Store) Succeeded(ctx context.Context, server id.Server, answered time.Time) error {
	s.mu.Lock()
	k, ok := s.known.Peek(server)
	s.mu.Unlock()
	if ok && k.Failures == 0 && s.now().Before(k.until) {
		return nil
	}
	_, err := s.reset(ctx, server, answered)
	return err
}

func (s *Store) reset(ctx context.Context, server id.Server, answered time.Time) (changed bool, err error) {
	part := partition.Of(string(server))
	tag, err := s.shards.For(part).Exec(ctx, sqlSucceeded, int32(part), string(server), answered.UnixMilli())
	if err != nil {
		return false, fmt.Errorf("note success of %s: %w", server, err)
	}
	if tag.RowsAffected() > 0 {
		s.note(server, 0, 0)
		return true, nil
	}
	_, err = s.read(ctx, server) // it did not fail, or has since
	return false, err
}

// Seen notes that a server sent us something: it is there, so whoever waits to try it again may do so now. Who calls
// it verified the request's signature. It costs a query every few seconds for each server at most.
func (s *Store) Seen(ctx context.Context, server id.Server) error {
	now := s.now()
	s.mu.Lock()
	last, ok := s.seen.Get(server)
	if ok && now.Sub(last) < seenEvery {
		s.mu.Unlock()
		return nil
	}
	s.seen.Add(server, now)
	s.mu.Unlock()
	changed, err := s.reset(ctx, server, now)
	if err != nil || !changed {
		return err
	}
	_ = s.bus.WakeFedout(partition.Of(string(server))) // a hint: fedout reads the table from time to time anyway
	return nil
}

// Failing returns the destinations of a partition that failed at their last request.
func (s *Store) Failing(ctx context.Context, part uint32) (map[id.Server]State, error) {
	rows, err := s.shards.For(part).Query(ctx, sqlFailing, int32(part))
	if err != nil {
		return nil, fmt.Errorf("read failing destinations: %w", err)
	}
	defer rows.Close()
	out := make(map[id.Server]State)
	for rows.Next() {
		var server id.Server
		var failures int
		var retry int64
		if err := rows.Scan(&server, &failures, &retry); err != nil {
			return nil, fmt.Errorf("read failing destinations: %w", err)
		}
		out[server] = s.note(server, failures, retry)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read failing destinations: %w", err)
	}
	return out, nil
}

// Forget drops what is remembered of a partition's destinations that failed, after a wake-up.
func (s *Store) Forget(part uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for server := range s.failing[part] {
		s.known.Remove(server)
	}
	delete(s.failing, part)
}
