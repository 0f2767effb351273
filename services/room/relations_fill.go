package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/pg"
)

// Owners of versions before relations were stored wrote none. After an upgrade, and while owners of such a version are still at work
// during a rolling upgrade, relations are lacking. A row of relation_fill for each partition says which; the owner writes them in the
// background. Owners that write relations note their epoch there. An owner that finds another epoch than the one before its own
// looks through the events since then.

const (
	// relatedAtOnce is in how many partitions a worker looks for relations at a time, relatedChunk how many events it looks at in one
	// transaction, which appends wait for.
	relatedAtOnce, relatedChunk = 2, 2000
	// historyOrd bounds the places of events that fill holes (roomdb.Place.LateOrd).
	historyOrd = -1 << 60
)

const (
	// sqlRelationFill notes the owner's epoch ($2), and what it has to look through: all up to $3 if somebody owned the partition
	// meanwhile who wrote no relations, else what the owner before had left.
	sqlRelationFill = `
INSERT INTO relation_fill AS f (part, epoch, done, goal)
SELECT p.part, p.epoch, 0, $3 FROM partition p WHERE p.part = $1 AND p.epoch = $2
ON CONFLICT (part) DO UPDATE SET epoch = excluded.epoch,
	done = CASE WHEN f.epoch < excluded.epoch - 1 THEN least(f.done, f.goal) WHEN f.done >= f.goal THEN excluded.goal ELSE f.done END,
	goal = CASE WHEN f.epoch < excluded.epoch - 1 OR f.done >= f.goal THEN excluded.goal ELSE f.goal END
RETURNING done, goal`

	// sqlRelatable reads those of some events that may relate to others or redact them.
	sqlRelatable = `
SELECT event_nid, room_nid, event_id, type, state_key, sender, origin_ts, coalesce(ord, 0), json FROM event
WHERE part = $1 AND event_nid > $2 AND event_nid <= $3
	AND (ord IS NOT NULL AND position('m.relates_to'::bytea IN json) > 0 OR type = 'm.room.redaction')`

	sqlNIDsOf = `SELECT event_nid FROM event WHERE part = $1 AND event_id = ANY($2)`

	// sqlHoldPartition keeps others from appending until the transaction ends, or ends it if the partition is another owner's.
	sqlHoldPartition = `
WITH held AS MATERIALIZED (SELECT FROM partition WHERE part = $1 AND epoch = $2 FOR UPDATE)
SELECT hanse_fence(count(*), 1) FROM held`

	// sqlRootsOf lets the senders of those of some events that fill holes take part in the threads that began on them.
	sqlRootsOf = `
INSERT INTO thread (part, room_nid, user_id, root, replies, last_place)
SELECT t.part, t.room_nid, e.sender, t.root, 0, t.last_place FROM event e
JOIN thread t ON t.part = e.part AND t.room_nid = e.room_nid AND t.user_id = '' AND t.root = e.event_id
WHERE e.part = $1 AND e.event_nid > $2 AND e.event_nid <= $3 AND e.ord < $4
ON CONFLICT DO NOTHING`

	sqlRelationsDone = `UPDATE relation_fill SET done = $3 WHERE part = $1 AND epoch = $2 AND done < $3`
)

// fillRelations writes the relations that a partition lacks of events up to a numeric id, in the background.
func (s *Service) fillRelations(p *lease, upTo int64) {
	s.work.Go(func() {
		select {
		case s.relating <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		defer func() { <-s.relating }()
		for wait := fillRetryMin; ; wait = min(2*wait, fillRetryMax) {
			err := s.relateAll(p.ctx, p, upTo)
			if err == nil || p.ctx.Err() != nil || pg.IsFenced(err) {
				return
			}
			s.log.Warn("relations of events are written later", "part", p.part, "retry_in", wait, "err", err)
			if !pause(p.ctx, wait) {
				return
			}
		}
	})
}

func (s *Service) relateAll(ctx context.Context, p *lease, upTo int64) error {
	var done, goal int64
	err := s.shards.For(p.part).QueryRow(ctx, sqlRelationFill, int32(p.part), p.epoch, upTo).Scan(&done, &goal)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // the partition is another owner's
	}
	if err != nil {
		return fmt.Errorf("read which relations are lacking: %w", err)
	}
	total := int64(0)
	for ; done < goal; done = min(done+relatedChunk, goal) {
		n, err := s.relateChunk(ctx, p, done, min(done+relatedChunk, goal))
		if err != nil {
			return fmt.Errorf("relations of events behind %d: %w", done, err)
		}
		total += n
		s.metrics.related.Add(float64(n))
	}
	if total > 0 {
		s.log.Info("relations of events were written that were lacking", "part", p.part, "relations", total)
	}
	return nil
}

// relateChunk writes the relations of the events behind one numeric id and up to another.
func (s *Service) relateChunk(ctx context.Context, p *lease, after, upTo int64) (written int64, err error) {
	rows, redacted, err := s.relatable(ctx, p, after, upTo)
	if err != nil {
		return 0, err
	}
	part, pool := int32(p.part), s.shards.For(p.part)
	// What became of the events since they were read, and of those that were redacted in this span, is looked at under the lock.
	anew := append(redacted, rows.num...)
	of := make([]int32, len(anew))
	for i := range of {
		of[i] = part
	}
	var q pgx.Batch
	q.Queue(sqlHoldPartition, part, p.epoch)
	rows.queue(&q)
	if len(anew) > 0 {
		q.Queue(sqlRelateAnew, of, anew)
	}
	q.Queue(sqlRootsOf, part, after, upTo, int64(historyOrd))
	q.Queue(sqlRelationsDone, part, p.epoch, upTo)
	return int64(len(rows.num)), pool.SendBatch(ctx, &q).Close()
}

// relatable reads the relations of some events, and the numeric ids of what they redact.
func (s *Service) relatable(ctx context.Context, p *lease, after, upTo int64) (*relationRows, []int64, error) {
	pool := s.shards.For(p.part)
	found, err := pool.Query(ctx, sqlRelatable, int32(p.part), after, upTo)
	if err != nil {
		return nil, nil, err
	}
	rows := new(relationRows)
	var targets []string
	var room int64
	_, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (struct{}, error) {
		e := &newEvent{pdu: new(event.PDU)}
		if err := row.Scan(&e.nid, &room, &e.pdu.ID, &e.pdu.Type, &e.pdu.StateKey, &e.pdu.Sender, &e.pdu.OriginServerTS, &e.ord, &e.pdu.JSON); err != nil {
			return struct{}{}, err
		}
		all := gjson.ParseBytes(e.pdu.JSON)
		if e.pdu.Type == typeRedaction {
			for _, target := range []gjson.Result{all.Get("redacts"), all.Get("content.redacts")} {
				if target.Type == gjson.String && storableText(target.Str) {
					targets = append(targets, target.Str)
				}
			}
		}
		if e.relate(all.Get("content")); e.relation != nil && e.ord != 0 {
			rows.part, rows.room = append(rows.part, int32(p.part)), append(rows.room, room)
			rows.of(e)
		}
		return struct{}{}, nil
	})
	if err != nil || len(targets) == 0 {
		return rows, nil, err
	}
	nids, err := pool.Query(ctx, sqlNIDsOf, int32(p.part), targets)
	if err != nil {
		return nil, nil, err
	}
	redacted, err := pgx.CollectRows(nids, pgx.RowTo[int64])
	return rows, redacted, err
}
