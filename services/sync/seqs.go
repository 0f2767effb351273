package sync

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
)

// seqs asks PostgreSQL for the newest positions of user streams, many users at once: the bus may have lost the word of a
// change. Polls that begin to wait within a second share a query; those that do not wait ask before they answer.
type seqs struct {
	db  *userdb.DB
	log *slog.Logger

	mu    sync.Mutex
	next  *seqBatch
	later map[*user]struct{} // who waits, and is asked for with the next round
}

type seqBatch struct {
	users map[id.User]struct{}
	done  chan struct{}
	seqs  map[id.User]int64
	err   error
}

const (
	// seqWindow is how long a poll that does not wait lingers for others to ask with.
	seqWindow = 2 * time.Millisecond
	// seqRound is how long polls wait before they are asked for.
	seqRound = time.Second
)

func newSeqs(db *userdb.DB, log *slog.Logger) *seqs { return &seqs{db: db, log: log} }

// soon asks for a user whose poll begins to wait, and wakes it if its stream has got further than we knew.
func (q *seqs) soon(u *user) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.later == nil {
		q.later = make(map[*user]struct{})
		time.AfterFunc(seqRound, q.round)
	}
	q.later[u] = struct{}{}
}

func (q *seqs) round() {
	q.mu.Lock()
	asked := q.later
	q.later = nil
	q.mu.Unlock()
	who := make([]id.User, 0, len(asked))
	for u := range asked {
		who = append(who, u.id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	found, err := q.db.Seqs(ctx, who)
	if err != nil {
		q.log.Warn("positions of user streams could not be read", "err", err)
		for u := range asked {
			q.soon(u)
		}
		return
	}
	for u := range asked {
		if raise(&u.latest, found[u.id]) {
			u.wake()
		}
	}
}

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
