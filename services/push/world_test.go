package push

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/await"
	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/follow/followtest"
	"hanse/pkg/matrix/id"
	"hanse/pkg/netguard"
	"hanse/pkg/node"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

const ours = "ours.test"

type local struct{}

func (local) IsLocal(server id.Server) bool { return server == ours }

// world is a cluster's PostgreSQL and NATS, with rooms whose log the test writes itself.
type world struct {
	t      testing.TB
	cfg    pg.Config
	shards *pg.Shards
	nats   *bustest.Server
	bus    *bus.Bus
	nid    atomic.Int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, cfg: pgtest.Config(t, 1), nats: bustest.New(t)}
	w.shards, w.bus = pgtest.Open(t, w.cfg), w.nats.Open("writer")
	return w
}

// worker is one push worker.
type worker struct {
	*followtest.Worker
	*Service
}

func (w *world) start(name string, change ...func(*Config)) *worker {
	w.t.Helper()
	k := &worker{Worker: followtest.New(w.t, w.nats, w.cfg, node.RolePush, name)}
	cfg := Defaults()
	for _, f := range change {
		f(&cfg)
	}
	var err error
	k.Service, err = New(cfg, Deps{
		Shards: k.Shards, Rooms: roomdb.Open(k.Shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), Users: userdb.New(k.Shards, k.Bus),
		Bus: k.Bus, Members: k.Members, Servers: local{}, Guard: &netguard.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, Log: k.Log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	k.Go(k.Service.Run, k.follow.Stop)
	return k
}

// share waits until the workers have all partitions between them.
func (w *world) share(workers ...*worker) {
	w.t.Helper()
	w.until("the partitions are not shared", func() bool {
		n := 0
		for _, k := range workers {
			if len(k.follow.All()) == 0 {
				return false
			}
			n += len(k.follow.All())
		}
		return n == int(w.shards.P())
	})
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	await.True(w.t, 2*time.Minute, what, ok)
}

func (w *world) exec(part uint32, sql string, args ...any) {
	w.t.Helper()
	if _, err := w.shards.For(part).Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) number(sql string, args ...any) (n int64) {
	w.t.Helper()
	if err := w.shards.For(0).QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// pusher gives a user a pusher, whose pushkey is the user id.
func (w *world) pusher(user id.User, url string) {
	w.t.Helper()
	data, err := json.Marshal(map[string]string{"url": url, "format": "event_id_only"})
	if err != nil {
		w.t.Fatal(err)
	}
	part := partition.Of(string(user))
	w.exec(part, `INSERT INTO pusher (part, user_id, app_id, pushkey, kind, app_display_name, device_display_name, lang, data, created_ts)
VALUES ($1, $2, 'app', $2, 'http', '', '', '', $3, 1)`, int32(part), user, data)
	if err := w.bus.PublishPusher(part, user); err != nil {
		w.t.Fatal(err)
	}
}

// room is a room without any state: those whom it invites are notified.
type room struct {
	w    *world
	id   string
	part uint32
	nid  int64
}

func (w *world) room(name string) *room {
	w.t.Helper()
	r := &room{w: w, id: "!" + name + ":" + ours, nid: w.nid.Add(1)}
	r.part = partition.Of(r.id)
	w.exec(r.part, `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, $2, $3, '10', 0, '{}', 1)`, int32(r.part), r.nid, r.id)
	return r
}

// invite writes invites to the log, and returns their ids.
func (r *room) invite(users ...id.User) (ids []string) {
	r.w.t.Helper()
	ctx := r.w.t.Context()
	var entries []*logv1.Entry
	var head int64
	err := pg.InTx(ctx, r.w.shards.For(r.part), func(tx pgx.Tx) error {
		entries, ids = nil, nil
		if err := tx.QueryRow(ctx, `UPDATE partition SET head = head + $1 WHERE part = $2 RETURNING head`, len(users), int32(r.part)).Scan(&head); err != nil {
			return err
		}
		var b pgx.Batch
		for i, u := range users {
			key, nid, pos := string(u), r.w.nid.Add(1), head-int64(len(users))+int64(i)+1
			ev := &logv1.Event{Nid: nid, EventId: fmt.Sprintf("$%d", nid), RoomVersion: "10", Type: "m.room.member", StateKey: &key, Sender: "@a:" + ours,
				Membership: "invite", OriginServerTs: time.Now().UnixMilli(), Local: true}
			json := fmt.Appendf(nil, `{"auth_events":[],"content":{"membership":"invite"},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":%d,"prev_events":[],"room_id":%q,"sender":%q,"signatures":{},"state_key":%q,"type":"m.room.member"}`,
				ev.OriginServerTs, r.id, ev.Sender, key)
			stored, err := proto.Marshal(ev)
			if err != nil {
				return err
			}
			b.Queue(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, auth, prev, json)
				VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, 1, '{}', '{}', $9)`, int32(r.part), nid, r.nid, ev.EventId, pos, ev.Type, key, ev.Sender, json)
			b.Queue(`INSERT INTO log (part, pos, room_nid, kind, event_nid, body) VALUES ($1, $2, $3, 1, $4, $5)`, int32(r.part), pos, r.nid, nid, stored)
			part := partition.Of(key)
			b.Queue(`INSERT INTO membership (part, user_id, room_id, room_part, room_nid, membership, event_nid, event_id, sender, pos, seq)
				VALUES ($1, $2, $3, $4, $5, 'invite', $6, $7, $8, $9, 1) ON CONFLICT DO NOTHING`, int32(part), key, r.id, int32(r.part), r.nid, nid, ev.EventId, ev.Sender, pos)
			ev.Json = json
			entries = append(entries, &logv1.Entry{Pos: pos, RoomNid: r.nid, RoomId: r.id, Body: &logv1.Entry_Event{Event: ev}})
			ids = append(ids, ev.EventId)
		}
		return tx.SendBatch(ctx, &b).Close()
	})
	if err != nil {
		r.w.t.Fatal(err)
	}
	_ = r.w.bus.PublishLog(&logv1.Batch{Part: r.part, Head: head, Entries: entries, CommittedUs: time.Now().UnixMicro()}) // lost ones are read
	return ids
}

// testGateway is a push gateway, which records what it gets.
type testGateway struct {
	*httptest.Server
	// answer, if set, answers instead.
	answer atomic.Pointer[http.HandlerFunc]

	mu  sync.Mutex
	got map[string][]string // event ids by pushkey
	raw [][]byte
}

func (w *world) gateway() *testGateway {
	w.t.Helper()
	g := &testGateway{got: make(map[string][]string)}
	g.Server = httptest.NewServer(http.HandlerFunc(g.serve))
	w.t.Cleanup(g.Close)
	return g
}

func (g *testGateway) address() string { return g.URL + "/_matrix/push/v1/notify" }

func (g *testGateway) serve(rw http.ResponseWriter, r *http.Request) {
	if f := g.answer.Load(); f != nil {
		(*f)(rw, r)
		return
	}
	g.record(rw, r)
}

// record takes a notification.
func (g *testGateway) record(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var got struct {
		Notification struct {
			EventID string `json:"event_id"`
			Devices []struct {
				Pushkey string `json:"pushkey"`
			} `json:"devices"`
		} `json:"notification"`
	}
	if err == nil {
		err = json.Unmarshal(body, &got)
	}
	if err != nil || r.URL.Path != "/_matrix/push/v1/notify" || len(got.Notification.Devices) != 1 {
		http.Error(rw, "no", http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	g.raw = append(g.raw, body)
	key := got.Notification.Devices[0].Pushkey
	if e := got.Notification.EventID; e != "" {
		g.got[key] = append(g.got[key], e)
	}
	g.mu.Unlock()
	_, _ = io.WriteString(rw, `{"rejected":[]}`)
}

func (g *testGateway) fails(with http.HandlerFunc) { g.answer.Store(&with) }
func (g *testGateway) works()                      { g.answer.Store(nil) }

// of returns the ids of the events that a pusher was told.
func (g *testGateway) of(user id.User) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.got[string(user)]...)
}
