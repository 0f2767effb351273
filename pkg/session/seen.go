package session

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
)

const (
	// seenEvery is how often the use of a device is stored at most.
	seenEvery = 2 * time.Minute
	// seenFlush is how often what was seen is stored.
	seenFlush = 10 * time.Second
	// seenMax bounds what waits to be stored, and what is remembered as stored; beyond it nothing is noted until the
	// next flush.
	seenMax = 50_000
)

// seenBuffer collects when devices were used, so that storing it costs one statement now and then.
type seenBuffer struct {
	mu      sync.Mutex
	waiting map[revokedKey]userdb.Seen
	stored  map[revokedKey]time.Time
}

func (b *seenBuffer) note(r *http.Request, i *Identity, now time.Time) {
	key := revokedKey{i.User, i.Device}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.stored[key]) < seenEvery || len(b.waiting) >= seenMax {
		return
	}
	if _, ok := b.waiting[key]; ok {
		return
	}
	if b.waiting == nil {
		b.waiting = make(map[revokedKey]userdb.Seen)
	}
	agent := r.UserAgent()
	if len(agent) > 256 {
		agent = agent[:256]
	}
	s := userdb.Seen{User: i.User, Device: i.Device, TS: userdb.Millis(now), Agent: strings.ReplaceAll(strings.ToValidUTF8(agent, "?"), "\x00", "?")}
	if addr := httpx.ClientAddr(r); addr.IsValid() {
		s.IP = addr.String()
	}
	b.waiting[key] = s
}

// take returns what waits, and counts it as stored.
func (b *seenBuffer) take(now time.Time) []userdb.Seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, at := range b.stored {
		if now.Sub(at) >= seenEvery {
			delete(b.stored, k)
		}
	}
	if len(b.waiting) == 0 {
		return nil
	}
	if b.stored == nil || len(b.stored) >= seenMax {
		b.stored = make(map[revokedKey]time.Time)
	}
	out := make([]userdb.Seen, 0, len(b.waiting))
	for k, s := range b.waiting {
		out = append(out, s)
		b.stored[k] = now
	}
	clear(b.waiting)
	return out
}

// recordSeen stores what was seen every now and then, and once more at the end.
func (c *Checker) recordSeen(ctx context.Context) {
	tick := time.NewTicker(seenFlush)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.flushSeen(ctx)
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			c.flushSeen(ctx)
			cancel()
			return
		}
	}
}

// flushSeen stores what was seen. What cannot be stored is dropped: the next use of the device says it again.
func (c *Checker) flushSeen(ctx context.Context) {
	if seen := c.seen.take(c.now()); len(seen) > 0 {
		if err := c.users.RecordSeen(ctx, seen); err != nil {
			c.log.WarnContext(ctx, "last use of devices could not be stored", "err", err, "devices", len(seen))
		}
	}
}

type contextKey struct{}

// With returns the request with its identity.
func With(r *http.Request, i *Identity) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), contextKey{}, i))
}

// From returns the identity of a request behind Required, nil elsewhere.
func From(r *http.Request) *Identity {
	i, _ := r.Context().Value(contextKey{}).(*Identity)
	return i
}

// Required lets authenticated requests through.
func (c *Checker) Required(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		i, err := c.Authenticate(r)
		if err != nil {
			return err
		}
		httpx.KnownUser(r, string(i.User))
		return next(w, With(r, i))
	}
}

// DeviceOrError returns the device of the request: 400 M_MISSING_PARAM for an application service that does not act as one.
func (i *Identity) DeviceOrError() (id.Device, error) {
	if i.Device == "" {
		return "", errNoDevice
	}
	return i.Device, nil
}
