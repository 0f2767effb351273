package room

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// counts are the members by server that a cluster has stored of a room.
func (c *cluster) counts(roomID string) map[id.Server]int {
	c.tb.Helper()
	r := c.room(roomID)
	rows, err := c.db.For(r.Part).Query(context.Background(), sqlRoomServers, int32(r.Part), r.NID)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer rows.Close()
	out := make(map[id.Server]int)
	for rows.Next() {
		var server id.Server
		var n int
		if err := rows.Scan(&server, &n); err != nil {
			c.tb.Fatal(err)
		}
		if n != 0 {
			out[server] = n
		}
	}
	if rows.Err() != nil {
		c.tb.Fatal(rows.Err())
	}
	return out
}

// boast makes a cluster claim n other servers to be in a room.
func (c *cluster) boast(roomID string, n int) {
	c.tb.Helper()
	r := c.room(roomID)
	if _, err := c.db.For(r.Part).Exec(context.Background(), `INSERT INTO room_server (part, room_nid, server, joined)
		SELECT $1, $2, 's' || i || '.test', 1 FROM generate_series(1, $3::int) i`, int32(r.Part), r.NID, n); err != nil {
		c.tb.Fatal(err)
	}
}

// A join to a room of thousands of servers notes them in commits for which others do not have to wait, all of them before
// it is answered (server-server API, PUT /v2/send_join, servers_in_room). What is not so is corrected with the members.
func TestJoinNotesServers(t *testing.T) {
	const said = 1000
	g := newBarrier("ids")
	_, a, b := newPartialClusters(t, 1, g.fill)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	populate(t, a, roomID, one, 5)
	a.boast(roomID, said)
	ok(b.join(roomID, bert, string(one)))
	<-g.reached
	counts := b.counts(roomID)
	if counts[one] == 0 || counts[two] != 1 || len(counts) != said+2 {
		t.Fatalf("%d servers, %d members of %s, %d of %s", len(counts), counts[one], one, counts[two], two)
	}
	if all, small := observed(b.workers[0].metrics.rows, 128); all != small || all < said/serversChunk {
		t.Errorf("%d of %d commits are small", small, all)
	}
	g.release()
	b.whole(roomID)
	if counts := b.counts(roomID); !maps.Equal(counts, map[id.Server]int{one: 6, two: 1}) {
		t.Errorf("counts %v", counts)
	}
	b.auditSplit(t, roomID)
}

// A join that is interrupted after it has noted servers leaves nothing behind that a later one would count, with members
// or without, of the same servers or others, whether the room was known before or not.
func TestJoinNotesServersAgain(t *testing.T) {
	for _, omit := range []bool{true, false} {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("omit=%t,before=%t", omit, before), func(t *testing.T) {
				var n *network
				var b *cluster
				var once sync.Once
				room := make(chan string, 1)
				steal := func(at string) {
					if at != "noted" || len(room) == 0 {
						return
					}
					once.Do(func() {
						w := b.any()
						if _, err := partition.NewRows(b.db).Acquire(context.Background(), partition.Of(<-room), w.name, w.grpc.Addr()); err != nil {
							t.Errorf("steal: %v", err)
						}
						n.setCut(one, true) // the new owner cannot do it again
					})
				}
				n2, a, b2 := newPartialClusters(t, 2, steal)
				n, b = n2, b2
				ok := must[*roomv1.SendResponse](t)
				roomID := a.create("11", anna, "public")
				populate(t, a, roomID, one, 5)
				if before {
					n.setOmit(false)
					ok(b.join(roomID, bert, string(one)))
					ok(b.leave(roomID, bert))
					carry(b, a, two, roomID, 0)
					n.setOmit(true)
				}
				a.boast(roomID, 500)
				room <- roomID
				if _, err := b.join(roomID, bert, string(one)); err == nil || len(b.counts(roomID)) < 500 {
					t.Fatalf("the join was not interrupted: %v, %d servers", err, len(b.counts(roomID)))
				}
				n.setCut(one, false)
				if _, err := a.db.For(0).Exec(context.Background(), `DELETE FROM room_server WHERE server LIKE 's%.test'`); err != nil {
					t.Fatal(err)
				}
				n.setOmit(omit)
				ok(b.join(roomID, birgt, string(one)))
				b.whole(roomID)
				r := b.room(roomID) // the first join may have got through to the other server
				want := map[id.Server]int{one: 6, two: r.JoinedLocal}
				if counts := b.counts(roomID); r.JoinedLocal == 0 || r.Joined != 6+r.JoinedLocal || !maps.Equal(counts, want) {
					t.Errorf("counts %v, not %v", counts, want)
				}
				waitFor(t, func() bool {
					indexed := 0
					for _, user := range []string{bert, birgt} {
						if b.membership(roomID, user) == "join" {
							indexed++
						}
					}
					return indexed == r.JoinedLocal
				})
			})
		}
	}
}
