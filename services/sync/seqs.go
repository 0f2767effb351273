package sync

import (
	"context"
	"sync"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
)

// seqs asks PostgreSQL for the newest positions of user streams, many users at once: polls that begin to wait within
// one window share a query.
type seqs struct {
	db *userdb.DB

	mu   sync.Mutex
	next *seqBatch
}

type seqBatch struct {
	users map[id.User]struct{}
	done  chan struct{}
	seqs  map[id.User]int64
	err   error
}

// seqWindow is how long a poll waits for others to ask with.
const seqWindow = 5 * time.Millisecond

func newSeqs(db *userdb.DB) *seqs { return &seqs{db: db} }

// newer says whether a user's stream has got further than we knew.
func (q *seqs) newer(ctx context.Context, u *user) (bool, error) {
	q.mu.Lock()
	b := q.next
	if b == nil {
		b = &seqBatch{users: make(map[id.User]struct{}), done: make(chan struct{})}
		q.next = b
		time.AfterFunc(seqWindow, func() { q.run(b) })
	}
	b.users[u.id] = struct{}{}
	q.mu.Unlock()
	select {
	case <-b.done:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if b.err != nil {
		return false, b.err
	}
	return raise(&u.latest, b.seqs[u.id]), nil
}

func (q *seqs) run(b *seqBatch) {
	q.mu.Lock()
	q.next = nil
	q.mu.Unlock()
	users := make([]id.User, 0, len(b.users))
	for u := range b.users {
		users = append(users, u)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b.seqs, b.err = q.db.Seqs(ctx, users)
	close(b.done)
}
