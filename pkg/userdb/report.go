package userdb

import (
	"context"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

// AddReport stores a report for the operator.
func (d *DB) AddReport(ctx context.Context, by id.User, kind string, room id.Room, event id.Event, target id.User, reason string) error {
	q, part := d.At(by)
	return q.AddReport(ctx, db.AddReportParams{
		Part: part, UserID: string(by), Kind: kind, RoomID: string(room), EventID: string(event), Target: string(target),
		Reason: reason, CreatedTs: Millis(time.Now()),
	})
}
