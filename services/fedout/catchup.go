package fedout

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/outgoing"
	logv1 "hanse/proto/log/v1"
)

const (
	// tooFar is the number of events of a room beyond which a destination gets only the newest one: the receiver
	// fetches what it wants of the rest.
	tooFar = 5000
	// readAhead is how many entries are read at once; those of other servers among them are passed over.
	readAhead = 200
	// missedReceipts bounds the receipts that are sent after an outage.
	missedReceipts = 2000
)

// catchUp is how a destination that is behind reads one log partition: from its position to a head that was fixed
// when it began.
type catchUp struct {
	upTo  int64
	rooms []int64
	// joined is how many members the destination has in each room, at the position that was reached.
	joined map[int64]int
	// skipped are rooms of which only the newest event is sent.
	skipped []int64
	// arrivals are local joins among the events that were read last.
	arrivals []arrival
}

// catchUpOnce sends the next transaction of what the destination missed.
func (d *dest) catchUpOnce(ctx context.Context) error {
	part, from := d.lowestBehind()
	c := d.catch[part]
	if c == nil {
		var err error
		if c, err = d.beginCatchUp(ctx, part, from); err != nil {
			return own(err)
		}
		if d.catch == nil {
			d.catch = make(map[uint32]*catchUp)
		}
		d.catch[part] = c
	}
	t, to, err := d.readMissed(ctx, part, from, c)
	if err != nil {
		return own(err)
	}
	if err := d.deliver(t); err != nil {
		return err
	}
	arrived, err := d.missedArrivals(ctx, part, from, to, c)
	if err != nil {
		return own(err)
	}
	if err := d.tellDevices(ctx, arrived); err != nil {
		return err
	}
	d.caughtUp(part, to, to >= c.upTo)
	return nil
}

// lowestBehind picks a partition; always the same one until it is done.
func (d *dest) lowestBehind() (uint32, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	part := slices.Min(slices.Collect(maps.Keys(d.behind)))
	return part, d.behind[part]
}

// caughtUp notes how far a partition was delivered, and whether nothing is missed any more.
func (d *dest) caughtUp(part uint32, to int64, done bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if done {
		delete(d.catch, part)
	}
	pos, ok := d.behind[part]
	if !ok {
		return
	}
	d.behind[part] = max(pos, to)
	if !done || d.newest[part] > d.behind[part] {
		return
	}
	maps.DeleteFunc(d.extras, func(key roomKey, _ bool) bool { return key.part == part })
	delete(d.behind, part)
	delete(d.newest, part)
}

// beginCatchUp finds the rooms with something for the destination.
func (d *dest) beginCatchUp(ctx context.Context, part uint32, from int64) (*catchUp, error) {
	c := &catchUp{upTo: d.p.Handed(part), joined: make(map[int64]int)}
	d.mu.Lock()
	c.upTo = max(c.upTo, d.newest[part]) // it may have been offered before the run of entries was done
	extras := []int64{}
	for key := range d.extras {
		if key.part == part {
			extras = append(extras, key.nid)
		}
	}
	d.mu.Unlock()
	if from >= c.upTo {
		return c, nil
	}
	rows, err := d.f.s.shards.For(part).Query(ctx, sqlMissedRooms, int32(part), string(d.server), from, c.upTo, tooFar+1, extras)
	if err != nil {
		return nil, fmt.Errorf("read missed rooms: %w", err)
	}
	var nid int64
	var joined, events int
	_, err = pgx.ForEachRow(rows, []any{&nid, &joined, &events}, func() error {
		c.joined[nid] = joined
		if events > tooFar {
			c.skipped = append(c.skipped, nid)
		} else {
			c.rooms = append(c.rooms, nid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read missed rooms: %w", err)
	}
	return c, d.rewindMembers(ctx, part, from, c)
}

// rewindMembers takes back what happened to the destination's members since a position: it gets only what it was
// entitled to at the time.
func (d *dest) rewindMembers(ctx context.Context, part uint32, from int64, c *catchUp) error {
	if len(c.rooms) == 0 {
		return nil
	}
	rows, err := d.f.s.shards.For(part).Query(ctx, sqlMoves, int32(part), c.rooms, from, string(d.server))
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	var nid int64
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&nid, &body}, func() error {
		e := new(logv1.Event)
		if err := proto.Unmarshal(body, e); err != nil {
			return err
		}
		c.joined[nid] -= outgoing.Joins(e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	return nil
}

// readMissed makes the next transaction of a partition, and says how far it goes.
func (d *dest) readMissed(ctx context.Context, part uint32, from int64, c *catchUp) (*transaction, int64, error) {
	t := new(transaction)
	to, err := c.upTo, error(nil)
	if from < c.upTo && len(c.rooms) > 0 {
		if to, err = d.missedEvents(ctx, part, from, c, t); err != nil {
			return nil, 0, err
		}
	}
	if to >= c.upTo && from < c.upTo {
		if err := d.newestOfSkipped(ctx, part, from, c, t); err != nil {
			return nil, 0, err
		}
	}
	all := append(slices.Clone(c.rooms), c.skipped...)
	if len(all) > 0 && from < to {
		if err := d.missedEDUs(ctx, part, from, to, all, t); err != nil {
			return nil, 0, err
		}
	}
	if t.origin == "" {
		t.origin = d.f.s.servers.Default()
	}
	return t, to, nil
}

// missedEvent is an event of the log, for a destination that is behind.
type missedEvent struct {
	pos, room int64
	body      *logv1.Event
}

func (d *dest) queryMissed(ctx context.Context, part uint32, sql string, args ...any) ([]missedEvent, error) {
	rows, err := d.f.s.shards.For(part).Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read missed events: %w", err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (missedEvent, error) {
		m := missedEvent{body: new(logv1.Event)}
		var body, json []byte
		var eventID string
		var redacted bool
		if err := row.Scan(&m.pos, &m.room, &body, &json, &eventID, &redacted); err != nil {
			return m, err
		}
		if err := proto.Unmarshal(body, m.body); err != nil {
			return m, err
		}
		m.body.Json = json
		if redacted {
			return m, redact(m.body, id.Event(eventID))
		}
		return m, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read missed events: %w", err)
	}
	return events, nil
}

// redact brings an event that was redacted since into the form in which it is sent.
func redact(e *logv1.Event, eventID id.Event) error {
	rules, ok := roomversion.Get(e.RoomVersion)
	if !ok {
		return fmt.Errorf("unknown room version %q", e.RoomVersion)
	}
	p, err := event.ParseTrusted(e.Json, eventID, rules)
	if err != nil {
		return err
	}
	if p, err = p.Redacted(); err != nil {
		return err
	}
	e.Json, e.Redacted = p.JSON, true
	return nil
}

// missedEvents adds the next events behind a position, in the order of the log, and returns how far they go.
func (d *dest) missedEvents(ctx context.Context, part uint32, from int64, c *catchUp, t *transaction) (int64, error) {
	events, err := d.queryMissed(ctx, part, sqlMissedEvents, int32(part), c.rooms, from, c.upTo, readAhead)
	if err != nil {
		return 0, err
	}
	to := from
	c.arrivals = nil
	for _, m := range events {
		if outgoing.BringsLocalUser(m.body, d.f.isLocal) && c.joined[m.room] > 0 {
			c.arrivals = append(c.arrivals, arrival{id.User(*m.body.StateKey), roomKey{part, m.room}})
		}
		if origin, ok := d.entitled(m, c); ok {
			if t.origin == "" {
				t.origin = origin
			}
			if t.origin != origin || len(t.pdus) == maxPDUs || t.bytes+len(m.body.Json) > maxTransaction && len(t.pdus) > 0 {
				return to, nil // next time
			}
			t.pdus = append(t.pdus, pdu{id: m.body.EventId, json: m.body.Json, logPart: part, pos: m.pos})
			t.bytes += len(m.body.Json)
		}
		c.joined[m.room] += d.movesOf(m.body)
		to = m.pos
	}
	if len(events) < readAhead {
		to = c.upTo
	}
	return to, nil
}

// movesOf says by how much an event changes the number of the destination's members.
func (d *dest) movesOf(e *logv1.Event) int {
	if e.StateKey == nil || id.User(*e.StateKey).Server() != d.server {
		return 0
	}
	return outgoing.Joins(e)
}

// entitled says whether the destination was to get an event when it was sent, and from whom of ours.
func (d *dest) entitled(m missedEvent, c *catchUp) (id.Server, bool) {
	from := id.User(m.body.Sender).Server()
	if !m.body.Local || from == d.server {
		return "", false
	}
	if c.joined[m.room]+d.movesOf(m.body) <= 0 && !slices.Contains(m.body.AlsoTo, string(d.server)) {
		return "", false
	}
	if !d.f.isLocal(from) {
		from = d.f.s.servers.Default()
	}
	return from, true
}

// newestOfSkipped adds the newest local event of each room that the destination is too far behind in.
func (d *dest) newestOfSkipped(ctx context.Context, part uint32, from int64, c *catchUp, t *transaction) error {
	for _, nid := range c.skipped {
		events, err := d.queryMissed(ctx, part, sqlNewest, int32(part), nid, from, c.upTo)
		if err != nil {
			return err
		}
		for _, m := range events {
			if origin := id.User(m.body.Sender).Server(); m.body.Local && d.f.isLocal(origin) && (t.origin == "" || t.origin == origin) {
				t.origin = origin
				t.pdus = append(t.pdus, pdu{id: m.body.EventId, json: m.body.Json, logPart: part, pos: m.pos})
				t.bytes += len(m.body.Json)
				break
			}
		}
	}
	return nil
}

// missedEDUs adds the changes of device lists and the receipts between two positions.
func (d *dest) missedEDUs(ctx context.Context, part uint32, from, to int64, rooms []int64, t *transaction) error {
	rows, err := d.f.s.shards.For(part).Query(ctx, sqlMissedDevices, int32(part), rooms, from, to)
	if err != nil {
		return fmt.Errorf("read missed device lists: %w", err)
	}
	devices := make(deviceChanges)
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&body}, func() error {
		c := new(logv1.DeviceChange)
		if err := proto.Unmarshal(body, c); err != nil {
			return err
		}
		if server := id.User(c.UserId).Server(); c.Local && d.f.isLocal(server) {
			if t.origin == "" {
				t.origin = server
			}
			if t.origin == server {
				devices.add(c)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read missed device lists: %w", err)
	}
	if err := d.addDevices(ctx, t, devices); err != nil {
		return err
	}
	return d.missedReceipts(ctx, part, from, to, rooms, t)
}

func (d *dest) missedReceipts(ctx context.Context, part uint32, from, to int64, rooms []int64, t *transaction) error {
	rows, err := d.f.s.shards.For(part).Query(ctx, sqlMissedReceipts, int32(part), rooms, from, to, missedReceipts)
	if err != nil {
		return fmt.Errorf("read missed receipts: %w", err)
	}
	all := newReceipts()
	var room, thread, eventID string
	var user id.User
	var ts int64
	_, err = pgx.ForEachRow(rows, []any{&room, &user, &thread, &eventID, &ts}, func() error {
		if server := user.Server(); d.f.isLocal(server) {
			if t.origin == "" {
				t.origin = server
			}
			if t.origin == server {
				all.add(room, user, thread, eventID, ts)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read missed receipts: %w", err)
	}
	return all.into(t)
}
