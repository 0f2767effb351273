package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	logv1 "hanse/proto/log/v1"
)

// partReader reads one partition in one goroutine (run). Only that goroutine touches next and
// known; others read handled and heard and call wake.
type partReader struct {
	r        *LogReader
	part     uint32
	sub      *nats.Subscription
	ctx      context.Context
	stop     context.CancelFunc
	stopped  chan struct{}
	next     int64 // the position that Handle gets next
	known    int64 // the highest position known to exist
	handled  atomic.Int64
	heard    atomic.Int64 // known, for others
	headSeen int64        // what compareHeads saw in its last round; belongs to it

	mu       sync.Mutex
	woken    bool               // look into PostgreSQL before the next message
	waiting  context.Context    // in which run waits for a message
	wakeNext context.CancelFunc // ends that wait
	waiters  map[chan struct{}]int64
}

func (r *LogReader) newPart(part uint32, after int64) (*partReader, error) {
	// Subscribed before the first read of PostgreSQL: what is committed after that read is heard.
	sub, err := r.bus.nc.SubscribeSync(roomSubject(part))
	if err != nil {
		return nil, fmt.Errorf("log reader: %w", err)
	}
	if err := sub.SetPendingLimits(r.cfg.QueueMsgs, r.cfg.QueueBytes); err != nil {
		return nil, fmt.Errorf("log reader: %w", err)
	}
	p := &partReader{r: r, part: part, sub: sub, next: after + 1, known: after, woken: true,
		stopped: make(chan struct{}), waiters: make(map[chan struct{}]int64)}
	p.handled.Store(after)
	p.heard.Store(after)
	p.ctx, p.stop = context.WithCancel(r.ctx)
	r.bus.watchSlow(sub, p.wake)
	return p, nil
}

// wake makes run look into PostgreSQL.
func (p *partReader) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.woken = true
	if p.wakeNext != nil {
		p.wakeNext()
	}
}

func (p *partReader) run() {
	defer close(p.stopped)
	defer p.leave()
	for p.ctx.Err() == nil {
		ctx, woken := p.waitContext()
		if woken {
			p.fill(0)
			continue
		}
		msg, err := p.sub.NextMsgWithContext(ctx)
		switch {
		case err == nil:
			p.receive(msg.Data)
		case p.ctx.Err() == nil && ctx.Err() == nil:
			// The queue overflowed, or the connection is being closed.
			p.fill(0)
			p.pause(0)
		}
	}
}

// waitContext returns the context in which to wait for a message, or true if a look into PostgreSQL
// is due. The context is kept until wake uses it up.
func (p *partReader) waitContext() (context.Context, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.woken {
		p.woken = false
		return nil, true
	}
	if p.waiting == nil || p.waiting.Err() != nil {
		p.waiting, p.wakeNext = context.WithCancel(p.ctx)
	}
	return p.waiting, false
}

func (p *partReader) leave() {
	p.r.bus.unwatchSlow(p.sub)
	_ = p.sub.Unsubscribe() // fails only if the connection is closed, which has ended it too
	p.r.addBehind(-(p.known - (p.next - 1)))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wakeNext != nil {
		p.wakeNext()
	}
	for ch := range p.waiters {
		close(ch)
	}
	p.waiters = nil
	p.stop()
}

// receive takes one message: entries that follow what was handled, a gap before them, a repetition,
// or a beacon.
func (p *partReader) receive(data []byte) {
	var b logv1.Batch
	if err := proto.Unmarshal(data, &b); err != nil {
		p.r.cfg.Log.Warn("undecodable batch on the bus", "part", p.part, "err", err)
		p.fill(0)
		return
	}
	p.know(b.Head)
	if b.Head < p.next {
		return // handled already
	}
	first := b.Head - int64(len(b.Entries)) + 1
	if first > p.next {
		p.r.bus.metrics.gaps.WithLabelValues(p.r.cfg.Name).Inc()
		p.fill(first - 1)
	}
	if b.Head < p.next || first > p.next || len(b.Entries) == 0 {
		return
	}
	if b.Entries[0].Pos != first {
		p.r.cfg.Log.Error("batch on the bus is not dense", "part", p.part, "head", b.Head, "first", b.Entries[0].Pos)
		p.fill(b.Head)
		return
	}
	p.deliver(Delivery{Part: p.part, Entries: b.Entries[p.next-first:], CommittedUS: b.CommittedUs, Live: true}, b.Head)
}

// fill reads from PostgreSQL until it has no more, or until upTo was handled if that is not 0. It
// returns early only when the reader stops.
func (p *partReader) fill(upTo int64) {
	limit := p.r.cfg.CatchUpLimit
	for attempt := 0; p.ctx.Err() == nil && (upTo == 0 || p.next <= upTo); {
		entries, err := p.r.cfg.Source.ReadLog(p.ctx, p.part, p.next, limit)
		if err != nil {
			p.failed("read log", err, attempt)
			attempt++
			continue
		}
		attempt = 0
		if len(entries) > 0 {
			last := entries[len(entries)-1].Pos
			p.know(last)
			p.r.bus.metrics.filled.WithLabelValues(p.r.cfg.Name).Add(float64(len(entries)))
			p.deliver(Delivery{Part: p.part, Entries: entries}, last)
		}
		if len(entries) < limit {
			if p.ctx.Err() == nil && p.next <= upTo {
				// The bus names positions that PostgreSQL does not have: purged, or a message from
				// before a restore. Positions commit in order, so they will not appear any more.
				p.r.cfg.Log.Warn("log positions do not exist", "part", p.part, "from", p.next, "to", upTo)
				p.advance(upTo)
			}
			return
		}
	}
}

// deliver hands entries to the handler until it takes them, or the reader stops.
func (p *partReader) deliver(d Delivery, last int64) {
	m, name := p.r.bus.metrics, p.r.cfg.Name
	for attempt := 0; p.ctx.Err() == nil; attempt++ {
		err := p.handle(d)
		if err == nil {
			m.delivered.WithLabelValues(name).Add(float64(len(d.Entries)))
			if d.CommittedUS > 0 {
				m.latency.WithLabelValues(name).Observe(float64(time.Now().UnixMicro()-d.CommittedUS) / 1e6)
			}
			p.advance(last)
			return
		}
		if p.ctx.Err() != nil {
			return
		}
		if isUnprocessable(err) && p.r.cfg.DeadLetter != nil {
			p.isolate(d, last)
			return
		}
		p.failed("handle log", err, attempt)
	}
}

// isolate hands over entry by entry, so that only the bad one goes to the dead letters.
func (p *partReader) isolate(d Delivery, last int64) {
	for i := range d.Entries {
		one := d
		one.Entries = d.Entries[i : i+1]
		end := d.Entries[i].Pos
		for attempt := 0; p.ctx.Err() == nil && p.next <= end; attempt++ {
			err := p.handle(one)
			if err != nil && isUnprocessable(err) {
				cause := err
				if err = p.r.cfg.DeadLetter(p.ctx, one, cause); err == nil {
					p.r.bus.metrics.dead.WithLabelValues(p.r.cfg.Name).Inc()
					p.r.cfg.Log.Error("log entry went to the dead letters", "consumer", p.r.cfg.Name,
						"part", p.part, "pos", end, "err", cause)
				}
			}
			if err == nil {
				p.advance(end)
				break
			}
			p.failed("handle log", err, attempt)
		}
	}
	if p.ctx.Err() == nil {
		p.advance(last)
	}
}

// errUnreadable is why an entry without a body goes to the dead letters.
var errUnreadable = errors.New("the entry is of a kind or a room version that this program does not know, or damaged")

// handle calls the handler; a panic is an unprocessable entry, and so is one that has no body to be handled.
func (p *partReader) handle(d Delivery) (err error) {
	for _, e := range d.Entries {
		if e.Body == nil {
			return Unprocessable(errUnreadable)
		}
	}
	defer func() {
		if v := recover(); v != nil {
			p.r.cfg.Log.Error("panic in log handler", "consumer", p.r.cfg.Name, "part", p.part,
				"panic", v, "stack", string(debug.Stack()))
			err = Unprocessable(fmt.Errorf("panic: %v", v))
		}
	}()
	return p.r.cfg.Handle(p.ctx, d)
}

// know notes that pos exists.
func (p *partReader) know(pos int64) {
	if pos > p.known {
		p.r.addBehind(pos - p.known)
		p.known = pos
		p.heard.Store(pos)
	}
}

// advance notes that everything up to pos was handled, and lets WaitFor go.
func (p *partReader) advance(pos int64) {
	if pos < p.next {
		return
	}
	p.know(pos)
	p.r.addBehind(-(pos - p.next + 1))
	p.next = pos + 1
	p.handled.Store(pos)
	p.mu.Lock()
	defer p.mu.Unlock()
	for ch, want := range p.waiters {
		if want <= pos {
			close(ch)
			delete(p.waiters, ch)
		}
	}
}

// waitPatience is how long WaitFor trusts the bus before it looks into PostgreSQL.
const waitPatience = 100 * time.Millisecond

func (p *partReader) waitFor(ctx context.Context, pos int64) error {
	if p.handled.Load() >= pos {
		return nil
	}
	ch := make(chan struct{})
	p.mu.Lock()
	if p.waiters == nil {
		p.mu.Unlock()
		return ErrReaderClosed
	}
	if p.handled.Load() >= pos {
		p.mu.Unlock()
		return nil
	}
	p.waiters[ch] = pos
	p.mu.Unlock()
	late := time.AfterFunc(waitPatience, p.wake)
	defer late.Stop()
	select {
	case <-ch:
		if p.handled.Load() < pos {
			return ErrReaderClosed
		}
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiters, ch)
		p.mu.Unlock()
		return fmt.Errorf("wait for position %d of partition %d: %w", pos, p.part, context.Cause(ctx))
	}
}

// failed counts, logs and waits before the next attempt.
func (p *partReader) failed(what string, err error, attempt int) {
	if p.ctx.Err() != nil {
		return
	}
	p.r.bus.metrics.retries.WithLabelValues(p.r.cfg.Name).Inc()
	p.r.cfg.Log.Warn(what, "consumer", p.r.cfg.Name, "part", p.part, "pos", p.next, "attempt", attempt, "err", err)
	p.pause(attempt)
}

func (p *partReader) pause(attempt int) {
	t := time.NewTimer(min(20*time.Millisecond<<min(attempt, 10), 2*time.Second))
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.ctx.Done():
	}
}
