package admin

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/password"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// letters is a cluster of two shards with a room, whose log has what a test puts there.
type letters struct {
	*Admin
	t    *testing.T
	part uint32
}

// newAdmin opens the administration of a new cluster.
func newAdmin(t *testing.T, names ...id.Server) *Admin {
	t.Helper()
	shards, err := pg.Open(t.Context(), pgtest.Config(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shards.Close)
	a, err := New(Deps{Names: names, Shards: shards, Bus: silent{}, Password: password.Config{MemoryKiB: 8, Iterations: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// silent is a bus on which nobody listens.
type silent struct{}

func (silent) PublishUsers(uint32, ...*logv1.UserSeq) error { return nil }
func (silent) PublishAuth(*logv1.AuthInvalidation) error    { return nil }
func (silent) WakeFedout(uint32) error                      { return nil }
func (silent) PublishAppservices() error                    { return nil }

func newLetters(t *testing.T) *letters {
	t.Helper()
	a := newAdmin(t, "here.example")
	l := &letters{Admin: a, t: t, part: 7}
	l.exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (7, 1, '!room:here.example', '11', 1, '{}', 1)`)
	for _, server := range []string{"here.example", "there.example", "away.example"} {
		l.exec(`INSERT INTO room_server (part, room_nid, server, joined) VALUES (7, 1, $1, 1)`, server)
	}
	l.exec(`INSERT INTO room_server (part, room_nid, server, joined) VALUES (7, 1, 'gone.example', 0)`)
	return l
}

func (l *letters) exec(sql string, args ...any) {
	l.t.Helper()
	if _, err := l.shards.For(l.part).Exec(l.t.Context(), sql, args...); err != nil {
		l.t.Fatal(err)
	}
}

// event puts an event into the log, and a dead letter of it.
func (l *letters) event(consumer string, pos int64, json string, e *logv1.Event) {
	l.t.Helper()
	e.RoomVersion, e.EventId = "11", "$event"
	body, err := proto.Marshal(e)
	if err != nil {
		l.t.Fatal(err)
	}
	l.exec(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, sender, origin_ts, auth, prev, json)
		VALUES (7, $1, 1, '$event', $1, 1, 'm.x', '@a:here.example', 1, '{}', '{}', $2)`, pos, []byte(json))
	l.exec(`INSERT INTO log (part, pos, room_nid, kind, event_nid, body) VALUES (7, $1, 1, $2, $1, $3)`, pos, roomdb.KindEvent, body)
	l.dead(consumer, pos)
}

func (l *letters) dead(consumer string, pos int64) {
	l.t.Helper()
	l.exec(`INSERT INTO dead_letter (part, consumer, pos, error, created_ts) VALUES (7, $1, $2, 'panic: no', 1000)`, consumer, pos)
}

func (l *letters) behind(server string) (pos int64, ok bool) {
	l.t.Helper()
	part := partition.Of(server)
	rows, err := l.shards.For(part).Query(l.t.Context(), `SELECT pos FROM destination_behind WHERE part = $1 AND server_name = $2 AND log_part = 7`,
		int32(part), server)
	if err != nil {
		l.t.Fatal(err)
	}
	defer rows.Close()
	if ok = rows.Next(); ok {
		if err := rows.Scan(&pos); err != nil {
			l.t.Fatal(err)
		}
	}
	return pos, ok
}

func (l *letters) left() int {
	l.t.Helper()
	all, err := l.DeadLetters(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return len(all)
}

const goodEvent = `{"auth_events":[],"content":{},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":1,"prev_events":[],"room_id":"!room:here.example","sender":"@a:here.example","type":"m.x"}`

func TestReplayForOtherServers(t *testing.T) {
	l := newLetters(t)
	l.event("fedout", 5, goodEvent, &logv1.Event{Sender: "@a:here.example", Local: true, AlsoTo: []string{"kicked.example"}})
	done, err := l.ReplayDeadLetter(t.Context(), "fedout", 7, 5)
	if err != nil {
		t.Fatal(err)
	}
	if want := []id.Server{"away.example", "kicked.example", "there.example"}; !slices.Equal(done.Again, want) || len(done.Busy) > 0 {
		t.Errorf("replayed %+v, want %v again", done, want)
	}
	for _, server := range done.Again {
		if pos, ok := l.behind(string(server)); !ok || pos != 4 {
			t.Errorf("%s is behind at %d (%t), want 4", server, pos, ok)
		}
	}
	for _, server := range []string{"here.example", "gone.example"} {
		if _, ok := l.behind(server); ok {
			t.Errorf("%s is marked as behind", server)
		}
	}
	if l.left() != 0 {
		t.Error("the dead letter is still there")
	}
	if _, err := l.ReplayDeadLetter(t.Context(), "fedout", 7, 5); !errors.Is(err, ErrNoDeadLetter) {
		t.Errorf("second replay: %v", err)
	}
}

// What fedout has of a destination that is behind is fedout's own to move.
func TestReplayWaitsForServersThatCatchUp(t *testing.T) {
	l := newLetters(t)
	l.event("fedout", 5, goodEvent, &logv1.Event{Sender: "@a:here.example", Local: true})
	stand := func(server string, pos int64) {
		t.Helper()
		part := partition.Of(server)
		_, err := l.shards.For(part).Exec(t.Context(), `INSERT INTO destination_behind (part, server_name, log_part, pos) VALUES ($1, $2, 7, $3)`,
			int32(part), server, pos)
		if err != nil {
			t.Fatal(err)
		}
	}
	stand("there.example", 9)
	stand("away.example", 2) // it will come to the entry by itself
	done, err := l.ReplayDeadLetter(t.Context(), "fedout", 7, 5)
	if err != nil || !slices.Equal(done.Busy, []id.Server{"there.example"}) || !slices.Equal(done.Again, []id.Server{"away.example"}) {
		t.Fatalf("replayed %+v, %v", done, err)
	}
	if pos, _ := l.behind("there.example"); pos != 9 {
		t.Errorf("the position was moved to %d", pos)
	}
	if pos, _ := l.behind("away.example"); pos != 2 {
		t.Errorf("the position was moved to %d", pos)
	}
	if l.left() != 1 {
		t.Error("the dead letter is gone")
	}
}

func TestReplayOfWhatStays(t *testing.T) {
	l := newLetters(t)
	l.event("fedout", 5, goodEvent, &logv1.Event{Sender: "@b:there.example"}) // of another server: not ours to send
	l.dead("sync", 5)
	for _, consumer := range []string{"sync", "fedout"} {
		if done, err := l.ReplayDeadLetter(t.Context(), consumer, 7, 5); err != nil || len(done.Again)+len(done.Busy) > 0 {
			t.Errorf("%s: %+v, %v", consumer, done, err)
		}
	}
	if _, ok := l.behind("there.example"); ok || l.left() != 0 {
		t.Error("a server is marked as behind, or a dead letter is left")
	}
}

func TestReplayRefusesWhatCannotBeRead(t *testing.T) {
	l := newLetters(t)
	l.event("sync", 5, `{"not an event"`, &logv1.Event{})
	l.dead("fedout", 5)
	l.dead("fedout", 6) // no such entry
	l.dead("sync", 7)   // of a kind that only a newer program knows
	l.exec(`INSERT INTO log (part, pos, room_nid, kind, body) VALUES (7, 7, 1, 99, '')`)
	l.dead("another", 5) // a consumer of another version
	for _, tc := range []struct {
		consumer string
		part     uint32
		pos      int64
	}{{"sync", 7, 5}, {"fedout", 7, 5}, {"fedout", 7, 6}, {"sync", 7, 7}, {"another", 7, 5}, {"sync", 8, 5}, {"sync", 1 << 20, 5}} {
		if _, err := l.ReplayDeadLetter(context.Background(), tc.consumer, tc.part, tc.pos); err == nil {
			t.Errorf("replayed %+v", tc)
		}
	}
	if l.left() != 5 {
		t.Errorf("%d dead letters are left, want 5", l.left())
	}
}

// What one server has refused is sent again to that server only.
func TestReplayOfRefusedEvent(t *testing.T) {
	l := newLetters(t)
	l.event("fedout:away.example", 5, goodEvent, &logv1.Event{Sender: "@a:here.example", Local: true})
	done, err := l.ReplayDeadLetter(t.Context(), "fedout:away.example", 7, 5)
	if err != nil {
		t.Fatal(err)
	}
	if want := []id.Server{"away.example"}; !slices.Equal(done.Again, want) || l.left() != 0 {
		t.Errorf("replayed %+v, want %v again; %d letters are left", done, want, l.left())
	}
	if _, ok := l.behind("there.example"); ok {
		t.Error("a server that has the event is marked as behind")
	}
}
