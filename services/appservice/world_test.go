package appservice

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/await"
	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/follow/followtest"
	"hanse/pkg/matrix/id"
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

// world is a cluster's PostgreSQL and NATS, with rooms whose log the test writes itself.
type world struct {
	t        testing.TB
	cfg      pg.Config
	shards   *pg.Shards
	nats     *bustest.Server
	bus      *bus.Bus
	nid      atomic.Int64
	registry *appservice.Registry
}

func newWorld(t testing.TB, services ...*appservice.Service) *world {
	t.Helper()
	w := &world{t: t, cfg: pgtest.Config(t, 1), nats: bustest.New(t), registry: appservice.Of(services...)}
	w.shards, w.bus = pgtest.Open(t, w.cfg), w.nats.Open("writer")
	return w
}

// worker is one appservice worker.
type worker struct {
	*followtest.Worker
	*Service
}

func (w *world) start(name string, change ...func(*Config)) *worker {
	w.t.Helper()
	k := &worker{Worker: followtest.New(w.t, w.nats, w.cfg, node.RoleAppservice, name)}
	cfg := Defaults()
	cfg.Timeout = 2 * time.Second
	for _, f := range change {
		f(&cfg)
	}
	var err error
	k.Service, err = New(cfg, Deps{
		Shards: k.Shards, Rooms: roomdb.Open(k.Shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), Users: userdb.New(k.Shards, k.Bus),
		Bus: k.Bus, Members: k.Members, Services: w.registry, Names: []id.Server{ours},
		Aliases: func(context.Context, id.Room) ([]id.Alias, error) { return nil, nil },
		Client:  asclient.New(asclient.Config{}), Log: k.Log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	k.Go(k.Service.Run, k.follow.Stop)
	return k
}

// owner waits until one of the workers has a service, and returns it.
func (w *world) owner(service string, workers ...*worker) *worker {
	w.t.Helper()
	var found *worker
	w.until("nobody has the service", func() bool {
		for _, k := range workers {
			if b, ours := k.follow.Get(partition.Of(service)); ours && b.stream(service) != nil {
				found = k
			}
		}
		return found != nil
	})
	return found
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

// testRoom is a room without any state: a service wants its events by the room's id, or by their senders.
type testRoom struct {
	w    *world
	id   string
	part uint32
	nid  int64
}

func (w *world) room(name string) *testRoom {
	w.t.Helper()
	r := &testRoom{w: w, id: "!" + name + ":" + ours, nid: w.nid.Add(1)}
	r.part = partition.Of(r.id)
	w.exec(r.part, `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, $2, $3, '10', 0, '{}', 1)`, int32(r.part), r.nid, r.id)
	return r
}

// say writes messages to the log with one commit, and returns their ids.
func (r *testRoom) say(sender string, texts ...string) (ids []string) {
	r.w.t.Helper()
	ctx := r.w.t.Context()
	var entries []*logv1.Entry
	var head int64
	err := pg.InTx(ctx, r.w.shards.For(r.part), func(tx pgx.Tx) error {
		entries, ids = nil, nil
		if err := tx.QueryRow(ctx, `UPDATE partition SET head = head + $1 WHERE part = $2 RETURNING head`, len(texts), int32(r.part)).Scan(&head); err != nil {
			return err
		}
		var b pgx.Batch
		for i, text := range texts {
			nid, pos := r.w.nid.Add(1), head-int64(len(texts))+int64(i)+1
			ev := &logv1.Event{Nid: nid, EventId: fmt.Sprintf("$%d", nid), RoomVersion: "10", Type: "m.room.message", Sender: sender, OriginServerTs: time.Now().UnixMilli(), Local: true}
			ev.Json = fmt.Appendf(nil, `{"auth_events":[],"content":{"body":%q,"msgtype":"m.text"},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":%d,"prev_events":[],"room_id":%q,"sender":%q,"signatures":{},"type":"m.room.message"}`,
				text, ev.OriginServerTs, r.id, ev.Sender)
			stored := proto.CloneOf(ev)
			stored.Json = nil
			body, err := proto.Marshal(stored)
			if err != nil {
				return err
			}
			b.Queue(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, sender, origin_ts, auth, prev, json)
				VALUES ($1, $2, $3, $4, $5, 1, $6, $7, 1, '{}', '{}', $8)`, int32(r.part), nid, r.nid, ev.EventId, pos, ev.Type, ev.Sender, ev.Json)
			b.Queue(`INSERT INTO log (part, pos, room_nid, kind, event_nid, body) VALUES ($1, $2, $3, 1, $4, $5)`, int32(r.part), pos, r.nid, nid, body)
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

func count(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(i)
	}
	return out
}

// bridge is an application service, which keeps account of what it gets.
type bridge struct {
	*httptest.Server
	t  testing.TB
	as *appservice.Service
	// answer, if set, answers in place of the service; it says whether the transaction counts.
	answer atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]

	busy atomic.Int32
	mu   sync.Mutex
	seen map[string][]byte
	txns []transactionBody
	got  []gotEvent
	when []time.Time
}

type gotEvent struct {
	ID       string `json:"event_id"`
	RoomID   string `json:"room_id"`
	Type     string `json:"type"`
	Sender   string `json:"sender"`
	TS       int64  `json:"origin_server_ts"`
	Unsigned struct {
		Age int64 `json:"age"`
	} `json:"unsigned"`
}

type transactionBody struct {
	Events []gotEvent `json:"events"`
}

// newBridge is a service that wants the events of rooms whose names begin with its id, and of its users.
func newBridge(t testing.TB, name string) *bridge {
	t.Helper()
	b := &bridge{t: t, seen: make(map[string][]byte)}
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.Close)
	var err error
	b.as, err = appservice.Parse(fmt.Appendf(nil, `{id: %[1]s, url: "%[2]s", as_token: as-%[1]s, hs_token: hs-%[1]s, sender_localpart: %[1]sbot, receive_ephemeral: true, org.matrix.msc3202: true,
namespaces: {users: [{exclusive: true, regex: "@_%[1]s_.*"}], rooms: [{exclusive: false, regex: "!%[1]s.*"}]}}`, name, b.URL), ours)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bridge) serve(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if n := b.busy.Add(1); n > 1 && b.answer.Load() == nil {
		b.t.Errorf("%d transactions at a time", n)
	}
	defer b.busy.Add(-1)
	txn, ok := strings.CutPrefix(r.URL.Path, "/_matrix/app/v1/transactions/")
	if !ok || r.Method != http.MethodPut || r.Header.Get("Authorization") != "Bearer "+b.as.HSToken {
		http.Error(rw, "no", http.StatusForbidden)
		b.t.Errorf("%s %s %v", r.Method, r.URL.Path, r.Header)
		return
	}
	counts := true
	f := b.answer.Load()
	if f != nil {
		counts = (*f)(rw, r)
	}
	if counts {
		b.record(txn, body)
	}
	if f == nil {
		_, _ = io.WriteString(rw, "{}")
	}
}

// record takes a transaction, once.
func (b *bridge) record(txn string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before, again := b.seen[txn]; again {
		if !bytes.Equal(before, body) {
			b.t.Errorf("transaction %s came with another body", txn)
		}
		return
	}
	b.seen[txn] = body
	var t transactionBody
	if err := json.Unmarshal(body, &t); err != nil {
		b.t.Errorf("transaction %s: %v", txn, err)
	}
	b.txns, b.got = append(b.txns, t), append(b.got, t.Events...)
	for range t.Events {
		b.when = append(b.when, time.Now())
	}
}

func (b *bridge) fails(f func(http.ResponseWriter, *http.Request) bool) { b.answer.Store(&f) }
func (b *bridge) works()                                                { b.answer.Store(nil) }

// ids returns the events that the service has, in its order.
func (b *bridge) ids() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]string, len(b.got))
	for i, e := range b.got {
		out[i] = e.ID
	}
	return out
}

// has waits until the service has as many events, and says what is wrong with them: each once, and those of a room in their order.
func (w *world) has(b *bridge, rooms ...[]string) {
	w.t.Helper()
	n := 0
	for _, ids := range rooms {
		n += len(ids)
	}
	await.True(w.t, 2*time.Minute, "the service lacks events", func() bool { return len(b.ids()) >= n })
	got := b.ids()
	if len(got) != n {
		w.t.Errorf("%d events, want %d", len(got), n)
	}
	for i, ids := range rooms {
		var of []string
		for _, e := range got {
			if slices.Contains(ids, e) {
				of = append(of, e)
			}
		}
		if !slices.Equal(of, ids) {
			w.t.Errorf("room %d: %d events in another order or not once each, want %d", i, len(of), len(ids))
		}
	}
}
