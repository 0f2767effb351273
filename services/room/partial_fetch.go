package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
)

// Bounds of what a server may make us fetch: the largest room known has a state of 350,000 events.
const (
	hugeAnswer  = 4 << 30
	hugeTimeout = 10 * time.Minute
	// maxListed bounds the ids of a state, and those of its auth chain.
	maxListed = 2_000_000
	// listChunk is how many ids are looked up at a time; spoolChunk how many events are parsed and written at a time, and
	// spoolBytes how large they are together.
	listChunk, spoolChunk, spoolBytes = 5000, 500, 4 << 20
)

// stateListing names the events of a state before an event, as another server sees it.
type stateListing struct {
	state []id.Event
	// after are events that the state before is followed by: prev events of our join, if that is not known there.
	after []id.Event
	// spooled is how many of its events are in the spool.
	spooled int
}

// wanted collects which listed events we lack.
type wanted struct {
	f     *fill
	ctx   context.Context
	chunk []id.Event
	lacks map[id.Event]bool
}

func (w *wanted) add(eventID id.Event) error {
	if w.chunk = append(w.chunk, eventID); len(w.chunk) < listChunk {
		return nil
	}
	return w.flush()
}

func (w *wanted) flush() error {
	lacking, err := w.f.in.lacking(w.ctx, w.chunk)
	if err != nil {
		return err
	}
	for _, eventID := range lacking {
		w.lacks[eventID] = true
	}
	w.chunk = w.chunk[:0]
	return nil
}

// fetchFrom gets the listing from the origin, and into the spool what we lack of it.
func (f *fill) fetchFrom(ctx context.Context) (*stateListing, error) {
	if err := f.step(ctx, "ids"); err != nil {
		return nil, err
	}
	at := f.join.ID
	l, lacks, err := f.list(ctx, at)
	var answer *fedError
	if errors.As(err, &answer) && answer.status == http.StatusNotFound && len(f.join.PrevEvents) == 1 {
		// It has not heard of our join yet.
		at = f.join.PrevEvents[0]
		if l, lacks, err = f.list(ctx, at); err == nil {
			l.after = []id.Event{at}
			lacks[at] = true
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ids of the state: %w", err)
	}
	if err := f.step(ctx, "fetch"); err != nil {
		return nil, err
	}
	l.spooled, err = f.fetch(ctx, at, lacks)
	return l, err
}

// list asks for the ids of a state, and finds out which of the events we lack.
func (f *fill) list(ctx context.Context, at id.Event) (*stateListing, map[id.Event]bool, error) {
	create, err := f.createID(ctx)
	if err != nil {
		return nil, nil, err
	}
	l := new(stateListing)
	want := &wanted{f: f, ctx: ctx, lacks: make(map[id.Event]bool)}
	listed, hasCreate := 0, false
	err = f.s.askStream(ctx, request{origin: f.in.home, dest: f.in.origin, method: http.MethodGet, timeout: hugeTimeout, max: largeAnswer,
		uri: fedPath("v1", "state_ids", string(f.roomID)) + "?event_id=" + url.QueryEscape(string(at))},
		func(list string, element json.RawMessage) error {
			var text string
			if err := canonjson.Decode(element, &text); err != nil {
				return err
			}
			eventID, err := id.ParseEvent(text)
			if err != nil {
				return err
			}
			if listed++; listed > maxListed {
				return errors.New("too many events")
			}
			if list == "pdu_ids" {
				l.state = append(l.state, eventID)
				hasCreate = hasCreate || eventID == create
			}
			return want.add(eventID)
		}, "pdu_ids", "auth_chain_ids")
	if err == nil {
		err = want.flush()
	}
	if err == nil && !hasCreate {
		err = errors.New("the create event is not in the state")
	}
	return l, want.lacks, err
}

// fetch gets events that we lack of the state at an event into the spool, and tells how many of them are there.
func (f *fill) fetch(ctx context.Context, at id.Event, lacks map[id.Event]bool) (spooled int, err error) {
	all := len(lacks)
	if err := f.withoutSpooled(ctx, lacks); err != nil {
		return 0, err
	}
	f.s.log.Debug("members to be fetched", "room", f.roomID, "server", f.in.origin, "events", len(lacks))
	sp := &spooler{f: f, lacks: lacks}
	asked := len(lacks)
	if len(lacks) > fewEvents {
		uri := fedPath("v1", "state", string(f.roomID)) + "?event_id=" + url.QueryEscape(string(at))
		err := f.s.askStream(ctx, request{origin: f.in.home, dest: f.in.origin, method: http.MethodGet, timeout: hugeTimeout, max: hugeAnswer, uri: uri},
			func(_ string, element json.RawMessage) error { return sp.add(ctx, element) }, "pdus", "auth_chain")
		if err := errors.Join(err, sp.flush(ctx)); err != nil {
			return 0, fmt.Errorf("state: %w", err)
		}
	}
	for eventID := range lacks { // those that are few, or that the answer did not hold
		if sp.alone++; sp.alone > fewEvents {
			break
		}
		one, err := f.s.fetchEvent(ctx, f.in.home, f.in.origin, eventID)
		if err != nil {
			f.s.log.Debug("event", "event", eventID, "server", f.in.origin, "err", err)
			if ctx.Err() != nil {
				return 0, err
			}
			continue
		}
		for _, raw := range one {
			if err := sp.add(ctx, raw); err != nil {
				return 0, err
			}
		}
	}
	if err := sp.flush(ctx); err != nil {
		return 0, err
	}
	// A state that lacks an event or two is better than none; auth decides. One that lacks more was not told in full.
	if len(lacks) > max(fewEvents, asked/100) {
		return 0, fmt.Errorf("%d of %d events were not told", len(lacks), asked)
	}
	return all - len(lacks), nil
}

// spooler writes events into the spool as they come.
type spooler struct {
	f     *fill
	lacks map[id.Event]bool
	alone int

	raw   rawPDUs
	bytes int
}

// add takes an event, which must not change afterwards.
func (sp *spooler) add(ctx context.Context, raw json.RawMessage) error {
	sp.raw, sp.bytes = append(sp.raw, raw), sp.bytes+len(raw)
	if len(sp.raw) < spoolChunk && sp.bytes < spoolBytes {
		return nil
	}
	return sp.flush(ctx)
}

const sqlSpool = `
INSERT INTO partial_spool (part, room_nid, depth, event_id, json)
SELECT $1, $2, * FROM unnest($3::bigint[], $4::text[], $5::bytea[])
ON CONFLICT DO NOTHING`

// flush spools those of the events that we lack. What is malformed or of another room is none of them.
func (sp *spooler) flush(ctx context.Context) error {
	f, raw := sp.f, sp.raw
	sp.raw, sp.bytes = nil, 0
	var depths []int64
	var ids []string
	var stored [][]byte
	err := f.s.turns.each(ctx, len(raw), func(i int) {
		for _, pdu := range f.s.parse(raw[i:i+1], f.in.rules, f.roomID) {
			if sp.lacks[pdu.ID] {
				delete(sp.lacks, pdu.ID)
				depths, ids, stored = append(depths, pdu.Depth), append(ids, string(pdu.ID)), append(stored, pdu.JSON)
			}
		}
	})
	if err != nil || len(ids) == 0 {
		return err
	}
	if _, err := f.s.shards.For(f.p.part).Exec(ctx, sqlSpool, int32(f.p.part), f.nid, depths, ids, stored); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	f.s.metrics.fillEvents.Add(float64(len(ids)))
	return nil
}

// withoutSpooled takes away what an earlier attempt fetched.
func (f *fill) withoutSpooled(ctx context.Context, lacks map[id.Event]bool) error {
	rows, err := f.s.shards.For(f.p.part).Query(ctx, `SELECT event_id FROM partial_spool WHERE part = $1 AND room_nid = $2`,
		int32(f.p.part), f.nid)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	var eventID id.Event
	_, err = pgx.ForEachRow(rows, []any{&eventID}, func() error {
		delete(lacks, eventID)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	return nil
}
