package fedout

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/destination"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
)

// destPart is a partition of destinations that this worker has. It implements follow.Keeper.
type destPart struct {
	*follow.Part
	f *sender

	work    sync.WaitGroup // goroutines that send
	mu      sync.Mutex
	dests   map[id.Server]*dest
	failing map[id.Server]destination.State // as of the last look
	left    bool                            // the partition is somebody else's
	// refused is what destinations have refused that nobody has anything to do with at the moment.
	refused map[id.Server]map[refusalKey]bool
	opened  bool // what is stored was read once; guarded by rows

	looked time.Time // all of it; belongs to who looks

	// rows is held by whoever reads or changes rows of destinations that are behind, so that they do so one at a time.
	rows sync.Mutex
}

// dest returns a destination, which begins to exist for us if it did not. It will not be forgotten before the caller
// has used it.
func (p *destPart) dest(server id.Server) *dest {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dests[server]
	if d == nil {
		d = &dest{f: p.f, p: p, server: server, gone: p.left, refused: p.refused[server]}
		if st, ok := p.failing[server]; ok && st.BackingOff(time.Now()) {
			d.wait(st.RetryAfter)
		}
		p.dests[server] = d
	}
	d.touch()
	return d
}

// peek returns a destination that exists for us.
func (p *destPart) peek(server id.Server) *dest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dests[server]
}

func (p *destPart) all() []*dest {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*dest, 0, len(p.dests))
	for _, d := range p.dests {
		out = append(out, d)
	}
	return out
}

// open reads what is stored of the destinations of a partition.
func (f *sender) open(ctx context.Context, part *follow.Part) (*destPart, error) {
	p := &destPart{Part: part, f: f, dests: make(map[id.Server]*dest)}
	var err error
	if p.refused, err = p.readRefused(ctx); err != nil {
		return nil, err
	}
	if err := p.look(ctx); err != nil {
		p.Leave()
		return nil, err
	}
	return p, nil
}

// Leave stops all destinations; what is on its way ends by itself.
func (p *destPart) Leave() {
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()
	for _, d := range p.all() {
		d.leave()
	}
}

// Quiet is closed when nothing of a partition that was left is on its way any more.
func (p *destPart) Quiet() <-chan struct{} {
	done := make(chan struct{})
	go func() { p.work.Wait(); close(done) }()
	return done
}

// Close forgets what waited.
func (p *destPart) Close() {
	for _, d := range p.all() {
		d.mu.Lock()
		for _, it := range d.queue {
			p.f.release(it)
		}
		d.queue = nil
		d.mu.Unlock()
	}
}

// look reads all that others may have changed of the partition. The health comes first: nobody is tried too early.
func (p *destPart) look(ctx context.Context) error {
	if err := p.lookHealth(ctx); err != nil {
		return err
	}
	if err := p.lookBehind(ctx); err != nil {
		return err
	}
	return p.lookEDUs(ctx)
}

// glance reads what a hint is about: destinations that were heard of, and EDUs that wait.
func (p *destPart) glance(ctx context.Context) error {
	if err := p.lookHealth(ctx); err != nil {
		return err
	}
	return p.lookEDUs(ctx)
}

// lookHealth takes over what the table says of backoffs.
func (p *destPart) lookHealth(ctx context.Context) error {
	p.f.s.dests.Forget(p.N)
	failing, err := p.f.s.dests.Failing(ctx, p.N)
	if err != nil {
		return err
	}
	now := time.Now()
	var healthy []*dest
	p.mu.Lock()
	p.failing = failing
	for server, d := range p.dests {
		if !failing[server].BackingOff(now) {
			healthy = append(healthy, d)
		}
	}
	p.mu.Unlock()
	for _, d := range healthy {
		d.revive()
	}
	return nil
}

func (p *destPart) lookEDUs(ctx context.Context) error {
	rows, err := p.f.s.shards.For(p.N).Query(ctx, sqlEDUServers, int32(p.N))
	if err != nil {
		return fmt.Errorf("read servers with EDUs: %w", err)
	}
	waiting, err := pgx.CollectRows(rows, pgx.RowTo[id.Server])
	if err != nil {
		return fmt.Errorf("read servers with EDUs: %w", err)
	}
	for _, server := range waiting {
		if !p.f.isLocal(server) {
			p.dest(server).wakeEDUs()
		}
	}
	return nil
}

// Flush stores where destinations stand that are behind, and says how far the others are.
func (p *destPart) Flush(ctx context.Context, upTo []int64) error {
	p.rows.Lock()
	defer p.rows.Unlock()
	dests := p.all()
	if err := p.flushBehind(ctx, dests); err != nil {
		return err
	}
	for _, d := range dests {
		d.mu.Lock()
		d.pins(upTo)
		d.mu.Unlock()
	}
	p.forgetIdle(dests, time.Now())
	return nil
}

// Idle says that there are no destinations with anything to store.
func (p *destPart) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.dests) == 0
}

// forgetIdle drops destinations that have had nothing to do for a while.
func (p *destPart) forgetIdle(dests []*dest, now time.Time) {
	for _, d := range dests {
		p.mu.Lock()
		d.mu.Lock()
		if d.idle(now) && p.dests[d.server] == d {
			d.gone = true
			delete(p.dests, d.server)
			delete(p.refused, d.server)
			if len(d.refused) > 0 {
				p.refused[d.server] = d.refused
			}
		}
		d.mu.Unlock()
		p.mu.Unlock()
	}
}
