package room

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
)

const (
	// storeChunk is how many events become outliers in one change.
	storeChunk = 1000
	// verifyAhead is how many chunks are read and verified while one is being stored: keys of many servers have to be
	// fetched, of which some do not answer.
	verifyAhead = 4
	// maxDeferred bounds the events that are tried again at the end, as they came before what they cite.
	maxDeferred = 10_000
)

const (
	// In the order of depth every event comes after those that it cites, unless somebody lied about a depth.
	sqlReadSpool = `
SELECT depth, event_id, json FROM partial_spool
WHERE part = $1 AND room_nid = $2 AND (depth, event_id) > ($3, $4) ORDER BY depth, event_id LIMIT $5`

	sqlUnspool = `
DELETE FROM partial_spool WHERE part = $1 AND room_nid = $2 AND (depth, event_id) <= ($3, $4)`

	sqlDropSpool = `DELETE FROM partial_spool WHERE part = $1 AND room_nid = $2`
)

func (s *Service) dropSpool(ctx context.Context, part uint32, roomNID int64) error {
	if _, err := s.shards.For(part).Exec(ctx, sqlDropSpool, int32(part), roomNID); err != nil {
		return fmt.Errorf("drop spool: %w", err)
	}
	return nil
}

// spooled is a chunk of the spool.
type spooled struct {
	raw   rawPDUs
	depth int64 // of its last event
	id    string
	good  chan []*event.PDU // those that are well signed; closed without any if err is set
	err   error
}

// storeSpool makes outliers of what is in the spool.
func (f *fill) storeSpool(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	chunks := make(chan *spooled, verifyAhead)
	defer func() {
		cancel()
		for range chunks { // until the reader is done, too
		}
	}()
	failed := make(chan error, 1)
	go func() {
		defer close(chunks)
		failed <- f.readSpool(ctx, chunks)
	}()
	var deferred []*event.PDU
	for c := range chunks {
		good := <-c.good
		if c.err != nil {
			return c.err
		}
		without, err := f.storeChunk(ctx, good)
		if err != nil {
			return err
		}
		if len(deferred)+len(without) <= maxDeferred {
			deferred = append(deferred, without...)
		}
		if _, err := f.s.shards.For(f.p.part).Exec(ctx, sqlUnspool, int32(f.p.part), f.nid, c.depth, c.id); err != nil {
			return fmt.Errorf("unspool: %w", err)
		}
		if err := f.step(ctx, "stored"); err != nil {
			return err
		}
	}
	if err := <-failed; err != nil {
		return err
	}
	for chunk := range slices.Chunk(byAuth(deferred), storeChunk) {
		without, err := f.storeChunk(ctx, chunk)
		if err != nil {
			return err
		}
		if len(without) > 0 {
			f.s.log.Info("members without their auth events", "room", f.roomID, "events", len(without))
		}
	}
	return nil
}

// readSpool reads and verifies the chunks, some at a time.
func (f *fill) readSpool(ctx context.Context, into chan<- *spooled) error {
	depth, last := int64(-1<<62), ""
	for {
		rows, err := f.s.shards.For(f.p.part).Query(ctx, sqlReadSpool, int32(f.p.part), f.nid, depth, last, storeChunk)
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		c := &spooled{good: make(chan []*event.PDU, 1)}
		var json []byte
		_, err = pgx.ForEachRow(rows, []any{&depth, &last, &json}, func() error {
			c.raw = append(c.raw, append([]byte(nil), json...))
			return nil
		})
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		if len(c.raw) == 0 {
			return nil
		}
		c.depth, c.id = depth, last
		go func() {
			defer close(c.good)
			var good []*event.PDU
			if good, c.err = f.s.parseAll(ctx, c.raw, f.in.rules, f.roomID); c.err == nil {
				c.good <- good
			}
			c.raw = nil
		}()
		select {
		case into <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// storeChunk stores events as outliers and waits for them, so that other rooms of the lane get their turn. It returns
// those that cite what we lack.
func (f *fill) storeChunk(ctx context.Context, pdus []*event.PDU) ([]*event.PDU, error) {
	r, err := f.lock(ctx)
	if err != nil {
		return nil, err
	}
	w := f.s.newWriter(ctx, r)
	w.c.bulk = true
	without, err := w.outliers(ctx, byAuth(pdus))
	if err == nil && len(w.c.events) > 0 {
		err = w.put()
	} else {
		w.c.finish(err)
	}
	r.unlock()
	if err != nil {
		return nil, err
	}
	return without, w.c.wait(ctx)
}
