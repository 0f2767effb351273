package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/retries"
)

const (
	// lookEvery is how soon what waits is found whose wake-up was lost.
	lookEvery = 10 * time.Second
	// dueAtOnce bounds the pushers that are read at once in a partition (the next look finds the others), usersAtOnce for how many users, itemsAtOnce what is read
	// at once of what waits for one.
	dueAtOnce, usersAtOnce, itemsAtOnce = 2000, 500, 100
	// soon is up to which pause a timer ends it; longer ones are found by looking.
	soon = 30 * time.Second
	// maxTimers bounds these timers in a partition.
	maxTimers = 1000
)

// box is the users of a partition, and what waits for their pushers. It implements follow.Keeper.
type box struct {
	*follow.Part
	follow.Stored
	s    *Service
	work sync.WaitGroup
	poke chan struct{}

	mu      sync.Mutex
	left    bool
	want    map[id.User]struct{} // for whose pushers something may wait
	look    bool                 // all users are to be looked at
	running map[pusherKey]bool   // requests under way; true: more may wait
	timers  int
	checked map[id.User]time.Time // when badges were counted anew
	// refusals are of the pushers whose gateway has refused the event that comes next.
	refusals map[pusherKey]refusal
}

// pusherKey names a pusher.
type pusherKey struct {
	user         id.User
	app, pushkey string
}

func (s *Service) open(_ context.Context, p *follow.Part) (*box, error) {
	b := &box{Part: p, s: s, poke: make(chan struct{}, 1), look: true, want: make(map[id.User]struct{}), running: make(map[pusherKey]bool), checked: make(map[id.User]time.Time),
		refusals: make(map[pusherKey]refusal)}
	b.work.Go(b.run)
	b.nudge()
	return b, nil
}

// Leave implements follow.Keeper.
func (b *box) Leave() {
	b.mu.Lock()
	b.left = true
	b.mu.Unlock()
	b.s.audience.forgetPart(b.N)
	b.nudge()
}

// Quiet implements follow.Keeper.
func (b *box) Quiet() <-chan struct{} {
	done := make(chan struct{})
	go func() { b.work.Wait(); close(done) }()
	return done
}

func (b *box) nudge() {
	select {
	case b.poke <- struct{}{}:
	default:
	}
}

// wake has the pushers of users looked at.
func (b *box) wake(users ...id.User) {
	b.mu.Lock()
	for _, u := range users {
		if len(b.want) >= maxCrowd {
			b.look = true
			break
		}
		b.want[u] = struct{}{}
	}
	b.mu.Unlock()
	b.nudge()
}

// lookSoon has all pushers looked at for which something waits.
func (b *box) lookSoon() {
	b.mu.Lock()
	b.look = true
	b.mu.Unlock()
	b.nudge()
}

// run starts requests until the partition is left.
func (b *box) run() {
	reads := retries.Log{To: b.s.log, What: "reading what waits for push gateways"}
	for {
		select {
		case <-b.poke:
		case <-b.Context().Done():
			return
		}
		users, look, left := b.take()
		if left {
			return
		}
		err := b.serve(b.Context(), users, look)
		if b.Context().Err() != nil {
			return
		}
		if err != nil {
			time.AfterFunc(time.Second, func() { b.again(users, look) })
		}
		reads.Note(err)
	}
}

func (b *box) again(users []id.User, look bool) {
	if look {
		b.lookSoon()
	}
	b.wake(users...)
}

// take returns whose pushers to look at next.
func (b *box) take() (users []id.User, look, left bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	look, b.look = b.look, false
	for u := range b.want {
		if len(users) == usersAtOnce {
			defer b.nudge()
			break
		}
		users = append(users, u)
		delete(b.want, u)
	}
	return users, look, b.left
}

// serve starts requests for the pushers of users, and, if look is set, of all for whom something waits.
func (b *box) serve(ctx context.Context, users []id.User, look bool) error {
	if err := b.takeInvites(ctx, users, look); err != nil {
		return err
	}
	if look {
		more, err := b.waiting(ctx)
		if err != nil {
			return err
		}
		for len(more) > usersAtOnce {
			if err := b.start(ctx, more[:usersAtOnce]); err != nil {
				return err
			}
			more = more[usersAtOnce:]
		}
		users = append(users, more...)
	}
	if len(users) == 0 {
		return nil
	}
	return b.start(ctx, users)
}

// waiting returns the users with something that waits and may be tried now.
func (b *box) waiting(ctx context.Context) ([]id.User, error) {
	pool := b.s.shards.For(b.N)
	if _, err := pool.Exec(ctx, sqlOrphans, int32(b.N)); err != nil {
		return nil, fmt.Errorf("delete what nobody waits for: %w", err)
	}
	rows, err := pool.Query(ctx, sqlWaiting, int32(b.N), time.Now().UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("read who waits: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[id.User])
	if err != nil {
		return nil, fmt.Errorf("read who waits: %w", err)
	}
	return users, nil
}

// item is something that waits for a pusher.
type item struct {
	roomPart int32
	pos      int64
	room     string
	event    string
	nid      int64
	tweaks   []byte
	created  int64
}

// badge says that the item is not about an event.
func (i *item) badge() bool { return i.roomPart < 0 }

// pusher is one for which something waits.
type pusher struct {
	pusherKey
	set          int64 // when, ms since 1970
	data         map[string]json.RawMessage
	url, gateway string
	// badge is what the gateway was told last, failures how many attempts in a row have failed; both as of the last read.
	badge    int64
	failures int
	// answered says that the gateway works: it has answered one of the requests that are made now.
	answered bool
}

// start starts requests for the pushers of users for which something waits, and that have none under way.
func (b *box) start(ctx context.Context, users []id.User) error {
	rows, err := b.s.shards.For(b.N).Query(ctx, sqlDue, int32(b.N), users, time.Now().UnixMilli(), dueAtOnce)
	if err != nil {
		return fmt.Errorf("read what is due: %w", err)
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*pusher, error) {
		p := new(pusher)
		var data []byte
		err := row.Scan(&p.user, &p.app, &p.pushkey, &data, &p.set)
		p.read(data)
		return p, err
	})
	if err != nil {
		return fmt.Errorf("read what is due: %w", err)
	}
	paused := make(map[time.Time][]*pusher)
	for _, p := range due {
		var pause *pausedError
		if err := b.begin(p); errors.As(err, &pause) {
			paused[pause.until] = append(paused[pause.until], p)
		}
	}
	for until, some := range paused {
		if err := b.postpone(ctx, some, until, 0); err != nil {
			return err
		}
	}
	return nil
}

// items reads what waits for a pusher.
func (b *box) items(ctx context.Context, p *pusher) ([]item, error) {
	rows, err := b.s.shards.For(b.N).Query(ctx, sqlItems, int32(b.N), p.user, p.app, p.pushkey, time.Now().UnixMilli(), itemsAtOnce)
	if err != nil {
		return nil, fmt.Errorf("read what waits: %w", err)
	}
	items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (it item, err error) {
		err = row.Scan(&it.roomPart, &it.pos, &it.room, &it.event, &it.nid, &it.tweaks, &it.created, &p.badge, &p.failures)
		return it, err
	})
	if err != nil {
		return nil, fmt.Errorf("read what waits: %w", err)
	}
	return items, nil
}

// read takes apart what a client has stored of the pusher.
func (p *pusher) read(data []byte) {
	if json.Unmarshal(data, &p.data) != nil || json.Unmarshal(p.data["url"], &p.url) != nil {
		return
	}
	if u, err := url.Parse(p.url); err == nil {
		p.gateway = u.Scheme + "://" + u.Host
	}
}

// begin starts the requests for a pusher, unless one is under way or its gateway takes none.
func (b *box) begin(p *pusher) error {
	b.mu.Lock()
	if _, busy := b.running[p.pusherKey]; busy || b.left {
		b.running[p.pusherKey] = true
		b.mu.Unlock()
		return nil
	}
	b.running[p.pusherKey] = false
	b.mu.Unlock()
	pass, err := b.s.gateways.enter(p.gateway, func() { b.wake(p.user) })
	if err != nil {
		b.end(p, false)
		return err
	}
	b.work.Go(func() { b.send(p, pass) })
	return nil
}

// end notes that nothing is under way to a pusher any more.
func (b *box) end(p *pusher, sent bool) {
	b.mu.Lock()
	more := b.running[p.pusherKey]
	delete(b.running, p.pusherKey)
	b.mu.Unlock()
	if more && sent {
		b.wake(p.user)
	}
}

// wakeAt wakes a user's pushers when a short pause is over.
func (b *box) wakeAt(user id.User, at time.Time) {
	pause := time.Until(at)
	b.mu.Lock()
	defer b.mu.Unlock()
	if pause > soon || b.timers >= maxTimers {
		return
	}
	b.timers++
	time.AfterFunc(pause+time.Millisecond, func() {
		b.mu.Lock()
		b.timers--
		b.mu.Unlock()
		b.wake(user)
	})
}
