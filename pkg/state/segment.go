package state

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Segment is a leap on a snapshot's chain: what differs between it and a far
// ancestor, or its whole state.
type Segment struct {
	part            uint32
	sid, back, span int64
	from, to        Map
}

// Execer is what Store needs of a pool, connection or transaction.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// A segment of a snapshot that was collected meanwhile is not wanted any more.
const insertSeg = `INSERT INTO state_seg (part, sid, back, span, data)
SELECT $1::integer, $2::bigint, $3::bigint, $4::bigint, $5::bytea
WHERE EXISTS (SELECT FROM state_delta WHERE part = $1 AND sid = $2)
ON CONFLICT DO NOTHING`

// Store writes the segment. It needs no fence: the row follows from rows that never
// change, so it is right whoever writes it, and as often as it is written.
func (s Segment) Store(ctx context.Context, db Execer) error {
	if _, err := db.Exec(ctx, insertSeg, int32(s.part), s.sid, s.back, s.span, s.encode()); err != nil {
		return fmt.Errorf("store state segment %d/%d: %w", s.part, s.sid, err)
	}
	return nil
}

func (s Segment) encode() []byte {
	es, _ := difference(s.from, s.to, s.from.Len()+s.to.Len())
	return encode(s.sid, es)
}
