package admission

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

var (
	// ErrFull says that an account has no room and nothing pending that could make some.
	ErrFull = errors.New("admission: the budget is used up")
	// ErrEvicted says that the entry had to make room for others.
	ErrEvicted = errors.New("admission: had to make room for others")
)

// Name names an account.
type Name struct {
	// Kind is one of the pool's limits.
	Kind string
	// Key is whose account it is; empty for the account of all.
	Key string
}

// Config is what a pool needs.
type Config struct {
	// Name labels the metrics.
	Name string
	// Limits is how much an account of each kind may hold.
	Limits     map[string]int64
	Registerer prometheus.Registerer // may be nil
}

// Pool has accounts. It is safe for concurrent use.
type Pool struct {
	limits  map[string]int64
	refused *prometheus.CounterVec
	evicted *prometheus.CounterVec

	mu       sync.Mutex
	accounts map[Name]*account
	held     map[string]int64 // by kind
	freed    chan struct{}    // closed when something is given back; nil if nobody waits
}

type account struct {
	name    Name
	held    int64
	entries int       // that refer to the account
	pending list.List // of *Entry; the one that has not grown for the longest time comes first
}

// New returns a pool without entries.
func New(cfg Config) *Pool {
	labels := prometheus.Labels{"pool": cfg.Name}
	p := &Pool{
		limits: cfg.Limits, accounts: make(map[Name]*account), held: make(map[string]int64),
		refused: metric.Register(cfg.Registerer, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_admission_refused_total",
			Help: "Requests that were refused because a budget was used up, by the kind of the budget.", ConstLabels: labels}, []string{"kind"})),
		evicted: metric.Register(cfg.Registerer, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_admission_evicted_total",
			Help: "Unfinished requests that had to make room for others, by the kind of the budget.", ConstLabels: labels}, []string{"kind"})),
	}
	if cfg.Registerer != nil {
		for kind := range cfg.Limits {
			metric.Register(cfg.Registerer, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hanse_admission_held",
				Help:        "What requests hold, by the kind of the budget: bytes, or places.",
				ConstLabels: prometheus.Labels{"pool": cfg.Name, "kind": kind}}, func() float64 { return float64(p.Held(kind)) }))
		}
	}
	return p
}

// Held is how much the accounts of a kind hold together.
func (p *Pool) Held(kind string) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[kind]
}

// Entry is what one request holds.
type Entry struct {
	pool *Pool

	// Under the pool's lock.
	accounts []*account
	places   []*list.Element // in the accounts' pending lists; nil if the entry is not pending
	held     int64
	gone     bool // evicted or released

	mu      sync.Mutex // held while giveUp runs
	giveUp  func()     // nil after Settle or Release
	evicted bool
}

// Enter begins an entry that holds nothing. giveUp, called when the entry has to make room, must make its holder call
// Release soon; it must not block, nor call methods of the entry.
func (p *Pool) Enter(giveUp func(), names ...Name) *Entry {
	e := &Entry{pool: p, giveUp: giveUp}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.join(e, names, true)
	return e
}

func (p *Pool) join(e *Entry, names []Name, pending bool) {
	e.accounts, e.places = make([]*account, len(names)), nil
	for i, name := range names {
		a := p.accounts[name]
		if a == nil {
			a = &account{name: name}
			p.accounts[name] = a
		}
		a.entries++
		e.accounts[i] = a
		if pending {
			e.places = append(e.places, a.pending.PushBack(e))
		}
	}
}

// leave takes the entry, and what it holds, out of its accounts.
func (p *Pool) leave(e *Entry) {
	p.unpend(e)
	for _, a := range e.accounts {
		a.held -= e.held
		p.held[a.name.Kind] -= e.held
		if a.entries--; a.entries == 0 {
			delete(p.accounts, a.name)
		}
	}
	e.accounts = nil
	p.wake()
}

func (p *Pool) unpend(e *Entry) {
	for i, place := range e.places {
		e.accounts[i].pending.Remove(place)
	}
	e.places = nil
}

func (p *Pool) wake() {
	if p.freed != nil {
		close(p.freed)
		p.freed = nil
	}
}

// Take charges n more to the entry's accounts.
func (e *Entry) Take(n int64) error {
	full, _, err := e.take(n, false)
	if err != nil && full != "" {
		e.pool.refused.WithLabelValues(full).Inc()
	}
	return err
}

// Wait is Take, but waits for room until the context ends.
func (e *Entry) Wait(ctx context.Context, n int64) error {
	for {
		full, freed, err := e.take(n, true)
		if freed == nil {
			return err
		}
		select {
		case <-freed:
		case <-ctx.Done():
			e.pool.refused.WithLabelValues(full).Inc()
			return errors.Join(ErrFull, ctx.Err())
		}
	}
}

// take returns the kind of the account that is full, and, if it is to be waited for, what is closed when something is given
// back.
func (e *Entry) take(n int64, wait bool) (full string, freed <-chan struct{}, err error) {
	p := e.pool
	p.mu.Lock()
	if e.gone {
		p.mu.Unlock()
		return "", nil, ErrEvicted
	}
	victims, full := p.makeRoom(e, e.accounts, n)
	if full != "" {
		if err = ErrFull; wait {
			if p.freed == nil {
				p.freed = make(chan struct{})
			}
			freed = p.freed
		}
	} else {
		p.charge(e, n)
		for i, place := range e.places {
			e.accounts[i].pending.MoveToBack(place)
		}
	}
	p.mu.Unlock()
	tell(victims)
	return full, freed, err
}

// Force charges n more without regard to limits: a step that has begun is worth more than what it exceeds them by.
func (e *Entry) Force(n int64) {
	e.pool.mu.Lock()
	defer e.pool.mu.Unlock()
	if !e.gone {
		e.pool.charge(e, n)
	}
}

func (p *Pool) charge(e *Entry, n int64) {
	e.held += n
	for _, a := range e.accounts {
		a.held += n
		p.held[a.name.Kind] += n
	}
}

// makeRoom evicts until each of the accounts has room for n. If that cannot be, nothing is evicted, and full is the kind of
// an account that has none.
func (p *Pool) makeRoom(e *Entry, accounts []*account, n int64) (victims []*Entry, full string) {
	for _, a := range accounts {
		free := p.limits[a.name.Kind] - a.held
		for place := a.pending.Front(); place != nil && free < n; place = place.Next() {
			if other := place.Value.(*Entry); other != e {
				free += other.held
			}
		}
		if free < n {
			return nil, a.name.Kind
		}
	}
	for _, a := range accounts {
		for p.limits[a.name.Kind]-a.held < n {
			place := a.pending.Front()
			if place.Value.(*Entry) == e {
				place = place.Next()
			}
			victim := place.Value.(*Entry)
			victim.gone = true
			p.leave(victim)
			p.evicted.WithLabelValues(a.name.Kind).Inc()
			victims = append(victims, victim)
		}
	}
	return victims, ""
}

// tell has the holders of evicted entries give up.
func tell(victims []*Entry) {
	for _, v := range victims {
		v.mu.Lock()
		v.evicted = true
		if v.giveUp != nil {
			v.giveUp()
			v.giveUp = nil
		}
		v.mu.Unlock()
	}
}

// Free gives n of what the entry holds back.
func (e *Entry) Free(n int64) {
	e.pool.mu.Lock()
	defer e.pool.mu.Unlock()
	if !e.gone {
		e.pool.charge(e, -n)
		e.pool.wake()
	}
}

// Settle says that the entry need not make room any more. It fails if it has had to.
func (e *Entry) Settle() error {
	e.pool.mu.Lock()
	gone := e.gone
	if !gone {
		e.pool.unpend(e)
	}
	e.pool.mu.Unlock()
	e.forget()
	if gone {
		return ErrEvicted
	}
	return nil
}

// Move charges what the entry holds to other accounts, and settles it.
func (e *Entry) Move(names ...Name) error {
	p := e.pool
	p.mu.Lock()
	if e.gone {
		p.mu.Unlock()
		e.forget()
		return ErrEvicted
	}
	moved := &Entry{pool: p}
	p.join(moved, names, false)
	victims, full := p.makeRoom(e, moved.accounts, e.held)
	if full == "" {
		held := e.held
		p.leave(e)
		e.accounts, e.held = moved.accounts, 0
		p.charge(e, held)
	} else {
		p.leave(moved)
	}
	p.mu.Unlock()
	e.forget()
	tell(victims)
	if full != "" {
		p.refused.WithLabelValues(full).Inc()
		return ErrFull
	}
	return nil
}

// forget waits for a giveUp that is under way, and makes sure that none comes later.
func (e *Entry) forget() {
	e.mu.Lock()
	e.giveUp = nil
	e.mu.Unlock()
}

// Release gives all back. It may be called more than once.
func (e *Entry) Release() {
	e.pool.mu.Lock()
	if !e.gone {
		e.gone = true
		e.pool.leave(e)
	}
	e.pool.mu.Unlock()
	e.forget()
}

// Evicted says whether the entry had to make room.
func (e *Entry) Evicted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.evicted
}
