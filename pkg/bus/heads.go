package bus

import (
	"context"
	"time"
)

// How often the heads are read while the bus does not bring what is written.
const (
	pollBusy = 250 * time.Millisecond // while entries are written
	pollIdle = time.Second            // while none are
	// distrust is how long a bus that has lost something is not relied on, though it is connected.
	distrust = time.Minute
)

// pace says when the heads are read next. It belongs to compareHeads.
type pace struct {
	regular  time.Duration // while the bus works
	pause    time.Duration // the last one while it did not; 0: it did
	lostTill time.Time
}

// round is what one comparison has found.
type round struct {
	away  bool // there is no connection
	lost  bool // something was not brought in time
	moved bool // entries were written since the last round
}

// next returns the pause before the next comparison, and whether it is one of a bus that does not work.
func (p *pace) next(r round, now time.Time) (pause time.Duration, polling bool) {
	if r.lost && !r.away {
		p.lostTill = now.Add(distrust)
	}
	if !r.away && !now.Before(p.lostTill) {
		p.pause = 0
		return p.regular, false
	}
	if r.moved || p.pause == 0 {
		p.pause = pollBusy
	} else {
		p.pause = min(2*p.pause, pollIdle)
	}
	return min(p.pause, p.regular), true
}

// linkChanged makes compareHeads look at once.
func (r *LogReader) linkChanged() {
	select {
	case r.link <- struct{}{}:
	default:
	}
}

// compareHeads finds what the bus did not bring.
func (r *LogReader) compareHeads() {
	p := pace{regular: r.cfg.HeadInterval}
	polling := r.bus.metrics.polling.WithLabelValues(r.cfg.Name)
	t := time.NewTimer(r.cfg.HeadInterval)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			polling.Set(0)
			return
		case <-r.link:
		case <-t.C:
		}
		pause, polls := p.next(r.compareOnce(), time.Now())
		polling.Set(0)
		if polls {
			polling.Set(1)
		}
		t.Reset(pause)
	}
}

// compareOnce reads the heads and has the partitions read on in which something is missing: at once if there is no
// bus that could bring it, otherwise if it has been known to exist for a whole round and is not on its way here.
func (r *LogReader) compareOnce() round {
	found := round{away: !r.bus.Connected()}
	ctx, cancel := context.WithTimeout(r.ctx, max(r.cfg.HeadInterval, pollIdle))
	defer cancel()
	r.bus.metrics.headReads.WithLabelValues(r.cfg.Name).Inc()
	heads, err := r.cfg.Heads(ctx)
	if r.ctx.Err() == nil {
		r.heads.Note(err, "consumer", r.cfg.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for part, p := range r.parts {
		head, known := heads[part]
		if !known && err != nil {
			continue // its shard does not answer
		}
		before := p.headSeen
		p.headSeen = head
		found.moved = found.moved || p.headSeen > before
		if found.away && p.headSeen > p.heard.Load() || before > p.heard.Load() && !p.waits() {
			found.lost = true
			p.wake()
		}
	}
	return found
}

// waits says whether messages wait in the queue.
func (p *partReader) waits() bool {
	n, _, err := p.sub.Pending()
	return err == nil && n > 0
}
