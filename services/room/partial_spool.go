package room

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

const (
	// readChunk is how many events are read from the spool at a time.
	readChunk = 1000
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

	// From where the chunk begins: what was deleted before it is passed over in the index.
	sqlUnspool = `
DELETE FROM partial_spool
WHERE part = $1 AND room_nid = $2 AND (depth, event_id) > ($3, $4) AND (depth, event_id) <= ($5, $6)`

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
	pdus        []*event.PDU
	after, last spoolPlace
	good        chan []*event.PDU // those that are well signed; closed without any if err is set
	err         error
}

// spoolPlace is that of an event in the order of the spool.
type spoolPlace struct {
	depth int64
	id    id.Event
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
		without, err := f.in.storeOutliers(ctx, good)
		if err != nil {
			return err
		}
		if len(deferred)+len(without) <= maxDeferred {
			deferred = append(deferred, without...)
		}
		_, err = f.s.shards.For(f.p.part).Exec(ctx, sqlUnspool, int32(f.p.part), f.nid, c.after.depth, c.after.id, c.last.depth, c.last.id)
		if err != nil {
			return fmt.Errorf("unspool: %w", err)
		}
		if err := f.step(ctx, "stored"); err != nil {
			return err
		}
	}
	if err := <-failed; err != nil {
		return err
	}
	without, err := f.in.storeOutliers(ctx, deferred)
	if len(without) > 0 {
		f.s.log.Info("members without their auth events", "room", f.roomID, "events", len(without))
	}
	return err
}

// readSpool reads and verifies the chunks, some at a time.
func (f *fill) readSpool(ctx context.Context, into chan<- *spooled) error {
	last := spoolPlace{depth: -1 << 62}
	for {
		rows, err := f.s.shards.For(f.p.part).Query(ctx, sqlReadSpool, int32(f.p.part), f.nid, last.depth, last.id, readChunk)
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		c := &spooled{after: last, good: make(chan []*event.PDU, 1)}
		var json []byte
		_, err = pgx.ForEachRow(rows, []any{&last.depth, &last.id, &json}, func() error {
			pdu, err := event.ParseTrusted(append([]byte(nil), json...), last.id, f.in.rules) // it was checked before it went there
			c.pdus = append(c.pdus, pdu)
			return err
		})
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		if len(c.pdus) == 0 {
			return nil
		}
		c.last = last
		go func() {
			defer close(c.good)
			var good []*event.PDU
			if good, c.err = f.s.genuine(ctx, c.pdus); c.err == nil {
				c.good <- good
			}
			c.pdus = nil
		}()
		select {
		case into <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
