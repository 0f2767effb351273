package room

import (
	"sync"
	"time"
)

// allowance is the processor time that a room has for resolving its forks: it comes in at a rate, is saved up to a bound,
// and may be overdrawn by whatever one resolution costs. A room that has overdrawn it takes in no events of other servers
// until that has come in again: so the most hostile fork gets done, in large steps, at the expense of its own room.
type allowance struct {
	mu      sync.Mutex
	rate    float64       // seconds in a second
	most    time.Duration // that is saved
	balance time.Duration
	at      time.Time // when the balance was that
}

// worstDebt bounds how far one resolution may overdraw it.
const worstDebt = 10 * time.Second

func (a *allowance) refill(now time.Time) {
	if a.at.IsZero() {
		a.balance = a.most
	} else if since := now.Sub(a.at); since > 0 {
		a.balance = min(a.most, a.balance+time.Duration(float64(since)*a.rate))
	}
	a.at = now
}

// spend takes what a resolution cost.
func (a *allowance) spend(now time.Time, cost time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refill(now)
	a.balance = max(a.balance-cost, -worstDebt)
}

// owed returns how long it takes until something is left; 0 if there is.
func (a *allowance) owed(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refill(now)
	if a.balance >= 0 {
		return 0
	}
	return time.Duration(float64(-a.balance)/a.rate) + time.Millisecond
}
