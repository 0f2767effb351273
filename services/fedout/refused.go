package fedout

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/deadletter"
	"hanse/pkg/matrix/id"
)

// A receiver may refuse a whole transaction because of one event or EDU in it that it cannot read or verify, and it will
// refuse that for ever. What is refused is found by halves, passed over for this destination, and the rest arrives in its
// order. A server that refuses whatever it is sent is treated as one that fails.

const (
	// refusedInRow is how many items a search passes over without one that is taken between them. Then the destination
	// rests as after a failure, and the next search goes on from there.
	refusedInRow = 8
	// stubborn is how many attempts in a row a destination must have answered with 500 before what is in the transaction
	// may be to blame.
	stubborn = 8
	// rememberedRefusals bounds what is remembered of each destination, in memory and in destination_refused.
	rememberedRefusals = 1000
	// lettersOfOne bounds the dead letters of one destination in one partition.
	lettersOfOne = 1000
)

// errRefusesAll says that a destination takes nothing.
var errRefusesAll = errors.New("it refuses all that it is sent")

// refusal is an answer that says that the transaction itself is bad: to send it again would not help.
type refusal struct {
	status int
	body   string
}

func (r *refusal) Error() string { return fmt.Sprintf("answered %d %s", r.status, r.body) }

// serverError says that the receiver calls it a fault of its own.
func (r *refusal) serverError() bool { return r.status >= 500 }

// refusalKey is what an event or an EDU is known by.
type refusalKey [sha256.Size]byte

func (p *pdu) key() refusalKey { return sha256.Sum256([]byte(p.id)) }

func (e *edu) key() refusalKey {
	return sha256.Sum256(append(append([]byte(e.Type), 0), e.Content...))
}

// withoutRefused takes out of a transaction what the destination has refused before.
func (d *dest) withoutRefused(t *transaction) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.refused) == 0 {
		return
	}
	t.pdus = slices.DeleteFunc(t.pdus, func(p pdu) bool { return d.refused[p.key()] })
	t.edus = slices.DeleteFunc(t.edus, func(e edu) bool { return d.refused[e.key()] })
}

// halves are the two parts of a transaction that is not single, in order.
func (t *transaction) halves() [2]*transaction {
	n := (len(t.edus) + len(t.pdus)) / 2
	edus := min(n, len(t.edus))
	pdus := n - edus
	return [2]*transaction{
		{origin: t.origin, edus: t.edus[:edus], pdus: t.pdus[:pdus], bytes: t.bytes, traces: t.traces},
		{origin: t.origin, edus: t.edus[edus:], pdus: t.pdus[pdus:], bytes: t.bytes, traces: t.traces},
	}
}

// search looks for what a destination refuses of a transaction.
type search struct {
	d *dest
	// found were refused alone since the last item that was taken.
	found []found
	// taken says that it has taken some of the transaction.
	taken bool
}

// found is an event or EDU that was refused when it came alone.
type found struct {
	t   *transaction
	why *refusal
}

// search sends the parts of a transaction that was refused, but for those that are refused alone.
func (d *dest) search(t *transaction, why *refusal) error {
	var refused *refusal
	if err := d.send(&transaction{origin: t.origin}); errors.As(err, &refused) {
		return fmt.Errorf("%w, even an empty transaction: %s", errRefusesAll, refused.Error())
	} else if err != nil {
		return err
	}
	s := &search{d: d}
	if err := s.parts(t, why); err != nil {
		return err
	}
	return s.passOver()
}

// parts sends the parts of a transaction that was refused.
func (s *search) parts(t *transaction, why *refusal) error {
	if t.single() {
		s.found = append(s.found, found{t, why})
		if len(s.found) < refusedInRow {
			return nil
		}
		if err := s.passOver(); err != nil {
			return err
		}
		return fmt.Errorf("%w, or %d items in a row: %s", errRefusesAll, refusedInRow, why.Error())
	}
	for _, half := range t.halves() {
		err := s.d.send(half)
		var refused *refusal
		if errors.As(err, &refused) {
			err = s.parts(half, refused)
		} else if err == nil {
			s.taken = true
			err = s.passOver()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// passOver gives up what was found. If the receiver speaks of a fault of its own, that is done only if it has taken something
// else.
func (s *search) passOver() error {
	for _, f := range s.found {
		if f.why.serverError() && !s.taken {
			return fmt.Errorf("it takes nothing: %s", f.why.Error())
		}
	}
	for _, f := range s.found {
		s.d.passOver(f.t, f.why)
	}
	s.found = nil
	return nil
}

// passOver notes that the only event or EDU of a transaction is not sent to the destination any more.
func (d *dest) passOver(t *transaction, why *refusal) {
	m := d.f.s.metrics
	for _, p := range t.pdus {
		d.refuse(p.key())
		m.refused.WithLabelValues("event").Inc()
		d.f.s.log.Warn("a server refused an event; it is not sent there again", "destination", d.server, "event", p.id, "answer", why.Error())
		d.deadLetter(p, why)
	}
	for _, e := range t.edus {
		d.refuse(e.key())
		m.refused.WithLabelValues("edu").Inc()
		d.f.s.log.Warn("a server refused an EDU; it is not sent there again", "destination", d.server, "type", e.Type, "answer", why.Error())
	}
}

func (d *dest) refuse(key refusalKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refused == nil || len(d.refused) >= rememberedRefusals {
		d.refusedAnew = d.refused != nil
		d.refused, d.fresh = make(map[refusalKey]bool), nil
	}
	d.refused[key] = true
	d.fresh = append(d.fresh, key)
}

// readRefused reads what is stored of the refusals of a partition's destinations.
func (p *destPart) readRefused(ctx context.Context) (map[id.Server]map[refusalKey]bool, error) {
	rows, err := p.f.s.shards.For(p.N).Query(ctx, sqlRefused, int32(p.N))
	if err != nil {
		return nil, fmt.Errorf("read what destinations refused: %w", err)
	}
	refused := make(map[id.Server]map[refusalKey]bool)
	var server id.Server
	var item []byte
	_, err = pgx.ForEachRow(rows, []any{&server, &item}, func() error {
		if refused[server] == nil {
			refused[server] = make(map[refusalKey]bool)
		}
		refused[server][refusalKey(item)] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what destinations refused: %w", err)
	}
	return refused, nil
}

// refusedChanges are what is to be stored of refusals: for each destination how many of its fresh ones.
type refusedChanges struct {
	dests   []*dest
	stored  []int
	anew    []string // whose rows are deleted first
	servers []string
	items   [][]byte
}

// collect adds what is not stored of a destination. d.mu is held.
func (c *refusedChanges) collect(d *dest) {
	if len(d.fresh) == 0 {
		return
	}
	c.dests, c.stored = append(c.dests, d), append(c.stored, len(d.fresh))
	if d.refusedAnew {
		c.anew = append(c.anew, string(d.server))
	}
	for _, key := range d.fresh {
		c.servers, c.items = append(c.servers, string(d.server)), append(c.items, key[:])
	}
}

func (c *refusedChanges) queue(b *pgx.Batch, part uint32) {
	if len(c.anew) > 0 {
		b.Queue(sqlDropRefused, int32(part), c.anew)
	}
	if len(c.items) > 0 {
		b.Queue(sqlPutRefused, int32(part), c.servers, c.items)
	}
}

// done notes that the changes are stored. What came meanwhile is stored next time.
func (c *refusedChanges) done() {
	for i, d := range c.dests {
		d.mu.Lock()
		d.fresh = d.fresh[min(c.stored[i], len(d.fresh)):]
		if d.refusedAnew && slices.Contains(c.anew, string(d.server)) {
			d.refusedAnew = false
		}
		d.mu.Unlock()
	}
}

// deadLetter stores that the destination lacks an event; hanse deadletter replay sends it again.
func (d *dest) deadLetter(p pdu, why *refusal) {
	ctx, cancel := context.WithTimeout(d.p.Context(), 5*time.Second)
	defer cancel()
	cause := fmt.Errorf("%s: %w", p.id, why)
	err := deadletter.PutBelow(ctx, d.f.s.shards, p.logPart, deadletter.RefusedBy(d.server), p.pos, cause, lettersOfOne)
	if err != nil {
		d.f.s.log.Warn("dead letter could not be stored", "destination", d.server, "event", p.id, "err", err)
	}
}
