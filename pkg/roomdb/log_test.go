package roomdb_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// Entries of a kind that this program does not know, that are damaged, or of a room whose version it does not know, have no
// body; the others are read as always.
func TestUnreadableLogEntries(t *testing.T) {
	const part = 5
	shards := pgtest.New(t)
	ctx := context.Background()
	good, err := proto.Marshal(&logv1.Receipt{UserId: "@a:x"})
	if err != nil {
		t.Fatal(err)
	}
	for nid, version := range map[int]string{1: "11", 2: "of tomorrow"} {
		_, err := shards.For(part).Exec(ctx, `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth)
			VALUES ($1, $2, $3, $4, 0, '{}', 0)`, part, nid, fmt.Sprintf("!%d", nid), version)
		if err != nil {
			t.Fatal(err)
		}
	}
	rows := []struct {
		room, kind int
		body       []byte
		readable   bool
	}{{1, roomdb.KindReceipt, good, true}, {1, 99, good, false}, {1, roomdb.KindReceipt, []byte{0xff}, false}, {2, roomdb.KindReceipt, good, false}, {1, roomdb.KindReceipt, good, true}}
	for i, r := range rows {
		_, err := shards.For(part).Exec(ctx, `INSERT INTO log (part, pos, room_nid, kind, body) VALUES ($1, $2, $3, $4, $5)`, part, i+1, r.room, r.kind, r.body)
		if err != nil {
			t.Fatal(err)
		}
	}
	d := roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)
	entries, err := d.ReadLog(ctx, part, 1, 10)
	if err != nil || len(entries) != len(rows) {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if e.Pos != int64(i+1) || e.RoomNid != int64(rows[i].room) || (e.Body != nil) != rows[i].readable {
			t.Errorf("entry %v", e)
		}
		if rows[i].readable && e.GetReceipt().GetUserId() != "@a:x" {
			t.Errorf("receipt %v", e)
		}
	}
}
