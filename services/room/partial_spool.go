package room

import (
	"context"
	"errors"
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
	// maxPasses bounds how often the spool is gone through for events that come before what they cite.
	maxPasses = 50
)

const (
	// In the order of depth every event comes after those that it cites, unless somebody lied about a depth.
	sqlReadSpool = `
SELECT depth, event_id, json FROM partial_spool
WHERE part = $1 AND room_nid = $2 AND (depth, event_id) > ($3, $4) ORDER BY depth, event_id LIMIT $5`

	// From where the chunk begins: what was deleted before it is passed over in the index.
	sqlUnspool = `
DELETE FROM partial_spool
WHERE part = $1 AND room_nid = $2 AND (depth, event_id) > ($3, $4) AND (depth, event_id) <= ($5, $6)
AND NOT event_id = ANY ($7)`

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
	n           int
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

// errSpoolLost says that what was fetched is not there any more: PostgreSQL empties an unlogged table when it recovers.
var errSpoolLost = errors.New("the spool was lost")

// storeSpool makes outliers of what is in the spool, in which so many events must be. Events that come before what they cite
// wait for another pass: depths are what their senders say, and in a room of whose depths all are the greatest that there is the
// order says nothing.
func (f *fill) storeSpool(ctx context.Context, expected int) error {
	for pass := range maxPasses {
		read, left, err := f.storePass(ctx)
		if err != nil {
			return err
		}
		if pass == 0 && read < expected {
			return fmt.Errorf("%w: %d of %d events", errSpoolLost, read, expected)
		}
		if left == 0 {
			return nil
		}
		if left == read || pass == maxPasses-1 {
			f.s.log.Info("members without their auth events", "room", f.roomID, "events", left)
			return nil
		}
	}
	return nil
}

// storePass goes through the spool once. It tells how many events it read, and how many of these cite what we lack still.
func (f *fill) storePass(ctx context.Context) (read, left int, err error) {
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
	for c := range chunks {
		good := <-c.good
		if c.err != nil {
			return 0, 0, c.err
		}
		without, err := f.in.storeOutliers(ctx, good)
		if err != nil {
			return 0, 0, err
		}
		read, left = read+c.n, left+len(without)
		stay := make([]id.Event, len(without))
		for i, p := range without {
			stay[i] = p.ID
		}
		_, err = f.s.shards.For(f.p.part).Exec(ctx, sqlUnspool, int32(f.p.part), f.nid, c.after.depth, c.after.id, c.last.depth, c.last.id, stay)
		if err != nil {
			return 0, 0, fmt.Errorf("unspool: %w", err)
		}
		if err := f.step(ctx, "stored"); err != nil {
			return 0, 0, err
		}
	}
	return read, left, <-failed
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
		c.n, c.last = len(c.pdus), last
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
