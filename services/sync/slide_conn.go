package sync

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/cache"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
	"hanse/services/sync/sliding"
)

// nextToken is the position behind an answer.
type nextToken = token.Sync

// heldConn is a connection as a worker remembers it. PostgreSQL has the same: a worker that remembers an older one finds out when it
// writes, and one that remembers nothing reads. It is never changed, only replaced.
type heldConn struct {
	conn *sliding.Conn
	used time.Time // as PostgreSQL knows it
	at   *settled
}

// settled says that with a request, and the rooms as they were then, there was nothing to tell. What has changed since is told by the
// logs and the user's memberships; the places of the lists need not be looked through again.
type settled struct {
	req     *sliding.Request
	state   *sliding.State
	changes int    // user.changes
	version uint64 // order.version, if a list has a filter
	kinds   int64  // kinds.seq, if a list has a filter
}

// slidingBudget bounds the connections that a worker remembers, in bytes.
const slidingBudget = 128 << 20

func newConns(reg prometheus.Registerer) *cache.Cache[userdb.SlidingConn, *heldConn] {
	return cache.New(cache.Config[userdb.SlidingConn, *heldConn]{
		Name: "sliding_connection", Budget: slidingBudget, Metrics: reg,
		Weigh: func(c userdb.SlidingConn, h *heldConn) int64 {
			return int64(len(c.User) + len(c.Device) + len(c.ID) + h.conn.Size() + 200)
		},
	})
}

// findConn finds the connection at the position that the client comes back with.
func (s *Service) findConn(ctx context.Context, p *slide) error {
	if p.pos == "" {
		return nil
	}
	pos, err := token.ParseSlide(p.pos, p.who.User)
	if err != nil {
		return unknownPos()
	}
	p.since = &pos.Sync
	held, ok := s.conns.Get(p.id)
	if ok && held.conn.Generation == pos.Generation {
		if s.goOn(p, held, pos.N) {
			return s.touchConn(ctx, p)
		}
	}
	if held, err = s.readConn(ctx, p.id); err != nil {
		return err
	}
	if held == nil || held.conn.Generation != pos.Generation {
		return unknownPos()
	}
	s.conns.Add(p.id, held)
	if !s.goOn(p, held, pos.N) {
		return unknownPos()
	}
	return s.touchConn(ctx, p)
}

// goOn takes a connection up at a position; false if it has none of that number. The position before is over then.
func (s *Service) goOn(p *slide, held *heldConn, n int64) bool {
	if p.conn = held.conn.At(n); p.conn == nil {
		return false
	}
	if p.held = held; p.conn != held.conn {
		p.held = &heldConn{conn: p.conn, used: held.used}
		s.conns.Add(p.id, p.held)
	}
	return true
}

// readConn reads a connection; nil if there is none.
func (s *Service) readConn(ctx context.Context, c userdb.SlidingConn) (*heldConn, error) {
	row, err := s.userdb.SlidingConnection(ctx, c)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.metrics.connsRead.Inc()
	conn, err := sliding.Open(sliding.Row{Generation: row.Generation, N: row.N, NextN: row.NextN, Base: row.Base, Delta: row.Delta, Next: row.Next})
	if err != nil {
		s.log.WarnContext(ctx, "a connection of sliding sync begins anew", "user", c.User, "device", c.Device, "err", err)
		return nil, nil
	}
	return &heldConn{conn: conn, used: time.UnixMilli(row.UsedTs)}, nil
}

// usedEvery is how exact the time of a connection's last use is.
const usedEvery = 24 * time.Hour

// touchConn notes that a connection is used, once a day.
func (s *Service) touchConn(ctx context.Context, p *slide) error {
	now := time.Now()
	if now.Sub(p.held.used) < usedEvery {
		return nil
	}
	if err := s.userdb.TouchSlidingConnection(ctx, p.id, p.conn.Generation, now); err != nil {
		return err
	}
	held := *p.held
	held.used = now
	p.held = &held
	s.conns.Add(p.id, &held)
	return nil
}

// maxHidden bounds the rooms in which something has happened where a client does not look before that is noted: each is looked at again
// with each request until then.
const maxHidden = 64

// nextPos stores what the answer changes of the connection, and returns the position that the client goes on with. An answer
// that changes nothing, like most, stores nothing.
func (s *Service) nextPos(ctx context.Context, p *slide, a *slideAnswer) (string, error) {
	if p.conn == nil {
		return s.beginConn(ctx, p, a)
	}
	if !a.news && a.hidden > 0 && a.hidden < maxHidden {
		return p.pos, nil // nothing was told: what the client does not look at need not be noted now
	}
	if a.changes.Empty() {
		return s.posOf(p, a, p.conn.Generation, p.conn.N), nil
	}
	for range 3 {
		after, row := p.conn.Answered(&a.changes)
		moved, err := s.userdb.MoveSlidingConnection(ctx, p.id, userdb.SlidingRow{
			Generation: row.Generation, N: row.N, Base: row.Base, Delta: row.Delta, NextN: row.NextN, Next: row.Next, UsedTs: p.held.used.UnixMilli(),
		})
		if err != nil {
			return "", err
		}
		if moved {
			s.metrics.connsWritten.Inc()
			s.conns.Add(p.id, &heldConn{conn: after, used: p.held.used})
			return s.posOf(p, a, after.Generation, after.NextN), nil
		}
		// Another request went on from the same position, maybe at another worker: the client, who waits for one, has given that up.
		held, err := s.readConn(ctx, p.id)
		if err != nil {
			return "", err
		}
		if held == nil || held.conn.Generation != p.conn.Generation {
			break
		}
		at := held.conn.At(p.conn.N)
		if at == nil {
			break
		}
		p.conn = at
	}
	s.conns.Remove(p.id)
	return "", unknownPos()
}

func (s *Service) posOf(p *slide, a *slideAnswer, generation, n int64) string {
	pos := token.Slide{Generation: generation, N: n, Sync: a.next}
	return pos.Encode(p.who.User)
}

// beginConn stores a connection that begins, with what its first answer tells.
func (s *Service) beginConn(ctx context.Context, p *slide, a *slideAnswer) (string, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	conn, row := sliding.Begin(int64(binary.BigEndian.Uint64(b[:])>>1), &a.changes)
	now := time.Now()
	if err := s.userdb.PutSlidingConnection(ctx, p.id, row.Generation, row.N, row.Base, now); err != nil {
		return "", err
	}
	s.metrics.connsWritten.Inc()
	s.conns.Add(p.id, &heldConn{conn: conn, used: now})
	return s.posOf(p, a, conn.Generation, conn.N), nil
}

// settle remembers that there was nothing to tell.
func (h *heldConn) settle(p *slide, m *moment, o *order, told *sliding.State) {
	at := &settled{req: p.req, state: told, changes: m.changes, version: o.version}
	p.user.mu.Lock()
	if p.user.kinds != nil {
		at.kinds = p.user.kinds.seq
	}
	h.at = at // the user's lock guards it
	p.user.mu.Unlock()
}

// settled says whether there was nothing to tell when the request came last.
func (p *slide) settled(m *moment, o *order) bool {
	if p.held == nil {
		return false
	}
	filters := slices.ContainsFunc(p.req.Lists, func(l sliding.List) bool { return l.Filters != nil })
	p.user.mu.Lock()
	defer p.user.mu.Unlock()
	at := p.held.at
	if at == nil || at.req != p.req || at.state != p.conn.State || at.changes != m.changes {
		return false
	}
	return !filters || at.version == o.version && p.user.kinds != nil && at.kinds == p.user.kinds.seq
}
