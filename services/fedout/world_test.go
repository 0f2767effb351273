package fedout

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/await"
	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/destination"
	"hanse/pkg/fedclient"
	"hanse/pkg/follow/followtest"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/outgoing"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/servers"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// ours is the name of the cluster under test.
const ours = "ours.test"

// patient bounds the wait for what must happen. It may take a pause after a failure, or a whole round of looks, on a
// machine that does much else.
const patient = 2 * time.Minute

// world is a cluster's PostgreSQL and NATS, with rooms that the test writes itself, and other servers.
type world struct {
	t      testing.TB
	cfg    pg.Config
	shards *pg.Shards
	nats   *bustest.Server
	bus    *bus.Bus
	redis  redis.UniversalClient
	reg    *servers.Registry
	roots  *x509.CertPool
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	tracer trace.Tracer // of workers that are started
	faults faults       // likewise
	mu     sync.Mutex
	nid    int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, cfg: pgtest.Config(t, 1), nats: bustest.New(t), roots: x509.NewCertPool()}
	w.shards, w.bus = pgtest.Open(t, w.cfg), w.nats.Open("writer")
	w.redis = redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	var err error
	if w.reg, err = servers.Open(t.Context(), w.shards, []id.Server{ours}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w.makeCA()
	return w
}

func (w *world) makeCA() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.ca, err = x509.ParseCertificate(der); err != nil {
		w.t.Fatal(err)
	}
	w.caKey = key
	w.roots.AddCert(w.ca)
}

func (w *world) cert() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, w.ca, &key.PublicKey, w.caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// worker is one fedout worker.
type worker struct {
	*followtest.Worker
	*Service
}

// start runs a worker. End, or the end of the test, ends it in good order; Kill does not.
func (w *world) start(name string, change ...func(*Config)) *worker {
	w.t.Helper()
	k := &worker{Worker: followtest.New(w.t, w.nats, w.cfg, "fedout", name)}
	shards, b := k.Worker.Shards, k.Bus
	cfg := Defaults()
	for _, f := range change {
		f(&cfg)
	}
	var err error
	k.Service, err = New(cfg, Deps{
		Shards: shards, DB: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil),
		Users: userdb.New(shards, b), Bus: b, Redis: w.redis, Members: k.Members, Servers: w.reg, Tracer: w.tracer, Log: k.Log,
		Network: Network{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Client: fedclient.Config{RootCAs: w.roots, DialTimeout: 20 * time.Second}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	k.faults = w.faults
	k.Go(k.Service.Run, k.sender.follow.Stop)
	return k
}

// room is a room that the test writes.
type room struct {
	w    *world
	id   string
	part uint32
	nid  int64
	// traceparent is that of what is sent.
	traceparent string
}

func (w *world) room(name string, joined ...string) *room {
	w.t.Helper()
	r := &room{w: w, id: "!" + name + ":" + ours}
	r.part = partition.Of(r.id)
	r.nid = w.nextNID()
	_, err := w.shards.For(r.part).Exec(w.t.Context(), `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, $2, $3, '10', 1, '{}', 1)`,
		int32(r.part), r.nid, r.id)
	if err != nil {
		w.t.Fatal(err)
	}
	r.count(ours, 1)
	for _, s := range joined {
		r.count(s, 1)
	}
	return r
}

func (w *world) nextNID() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nid++
	return w.nid
}

const countServer = `INSERT INTO room_server AS s (part, room_nid, server, joined) VALUES ($1, $2, $3, $4)
	ON CONFLICT (part, room_nid, server) DO UPDATE SET joined = s.joined + excluded.joined`

func (r *room) count(server string, n int) {
	r.w.t.Helper()
	_, err := r.w.shards.For(r.part).Exec(r.w.t.Context(), countServer, int32(r.part), r.nid, server, n)
	if err != nil {
		r.w.t.Fatal(err)
	}
}

// send appends a message of ours and returns its event id.
func (r *room) send(texts ...string) (ids []string) {
	r.w.t.Helper()
	var events []*logv1.Event
	for range texts {
		events = append(events, &logv1.Event{Type: "m.room.message", Sender: "@a:" + ours, Local: true, CurrentBefore: 1, CurrentAfter: 1})
	}
	return r.append(events...)
}

func (r *room) sendN(n int) []string { return r.send(make([]string, n)...) }

// member appends a membership event.
func (r *room) member(sender, target, before, now string, local bool, alsoTo ...string) string {
	r.w.t.Helper()
	return r.append(&logv1.Event{Type: "m.room.member", StateKey: &target, Sender: sender, Local: local, Membership: now,
		PrevMembership: before, CurrentBefore: 1, CurrentAfter: 2, AlsoTo: alsoTo})[0]
}

// append writes events to the log and publishes them, as the owner of the room's partition does.
func (r *room) append(events ...*logv1.Event) (ids []string) {
	r.w.t.Helper()
	entries := make([]*logv1.Entry, len(events))
	for i, e := range events {
		e.Nid = r.w.nextNID()
		e.EventId = fmt.Sprintf("$%d-%s", e.Nid, strings.Trim(r.id, "!"))
		e.RoomVersion, e.OriginServerTs = "10", time.Now().UnixMilli()
		e.Json = []byte(fmt.Sprintf(`{"content":{"body":"%0200d"},"room_id":%q,"test_id":%q}`, e.Nid, r.id, e.EventId))
		entries[i] = &logv1.Entry{Body: &logv1.Entry_Event{Event: e}}
		ids = append(ids, e.EventId)
	}
	r.log(entries...)
	return ids
}

// log writes entries to the log and publishes them.
func (r *room) log(entries ...*logv1.Entry) {
	r.w.t.Helper()
	ctx := r.w.t.Context()
	var head int64
	err := pg.InTx(ctx, r.w.shards.For(r.part), func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `UPDATE partition SET head = head + $1 WHERE part = $2 RETURNING head`, len(entries), int32(r.part)).Scan(&head); err != nil {
			return err
		}
		var b pgx.Batch
		for i, e := range entries {
			e.Pos, e.RoomNid, e.RoomId = head-int64(len(entries))+int64(i)+1, r.nid, r.id
			e.Traceparent = r.traceparent
			r.queue(&b, e)
		}
		b.Queue(`UPDATE room SET last_pos = $1 WHERE part = $2 AND room_nid = $3`, head, int32(r.part), r.nid)
		return tx.SendBatch(ctx, &b).Close()
	})
	if err != nil {
		r.w.t.Fatal(err)
	}
	_ = r.w.bus.PublishLog(&logv1.Batch{Part: r.part, Head: head, Entries: entries, CommittedUs: time.Now().UnixMicro()}) // lost ones are read
}

func (r *room) queue(b *pgx.Batch, e *logv1.Entry) {
	const insert = `INSERT INTO log (part, pos, room_nid, kind, event_nid, body) VALUES ($1, $2, $3, $4, $5, $6)`
	var body proto.Message
	var kind int
	var nid *int64
	switch x := e.Body.(type) {
	case *logv1.Entry_Event:
		stored := proto.Clone(x.Event).(*logv1.Event)
		stored.Json = nil
		body, kind, nid = stored, roomdb.KindEvent, &x.Event.Nid
		if n := outgoing.Joins(stored); n != 0 {
			b.Queue(countServer, int32(r.part), r.nid, string(id.User(*stored.StateKey).Server()), n)
		}
		b.Queue(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, auth, prev, json)
			VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, 1, '{}', '{}', $9)`,
			int32(r.part), x.Event.Nid, r.nid, x.Event.EventId, e.Pos, x.Event.Type, x.Event.StateKey, x.Event.Sender, x.Event.Json)
	case *logv1.Entry_Receipt:
		body, kind = x.Receipt, roomdb.KindReceipt
		b.Queue(`INSERT INTO receipt (part, room_nid, user_id, type, thread_id, event_id, ord, notify_seq, ts, pos) VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7, $8)
			ON CONFLICT (part, room_nid, user_id, type, thread_id) DO UPDATE SET event_id = excluded.event_id, pos = excluded.pos`,
			int32(r.part), r.nid, x.Receipt.UserId, x.Receipt.Type, x.Receipt.ThreadId, x.Receipt.EventId, x.Receipt.Ts, e.Pos)
	case *logv1.Entry_DeviceChange:
		body, kind = x.DeviceChange, roomdb.KindDeviceChange
	case *logv1.Entry_Filled:
		body, kind = x.Filled, roomdb.KindFilled
		b.Queue(`UPDATE room SET full_pos = $1 WHERE part = $2 AND room_nid = $3`, e.Pos, int32(r.part), r.nid)
	}
	raw, err := proto.Marshal(body)
	if err != nil {
		r.w.t.Fatal(err)
	}
	b.Queue(insert, int32(r.part), e.Pos, r.nid, kind, nid, raw)
}

// remote is another server, which records what it gets.
type remote struct {
	w    *world
	name string
	key  *signing.Key
	srv  *httptest.Server

	// answer, if set, decides about a request before anything else does: a status other than 0 is the answer.
	answer atomic.Pointer[func(*http.Request, []byte) int]

	mu       sync.Mutex
	requests int
	now      int // transactions under way
	most     int
	txns     []received
	seen     map[string]bool
	changed  chan struct{}
	extra    http.Handler
}

// received is a transaction that a server has taken.
type received struct {
	Origin string `json:"origin"`
	PDUs   []struct {
		ID   string `json:"test_id"`
		Room string `json:"room_id"`
	} `json:"pdus"`
	EDUs []struct {
		Type    string          `json:"edu_type"`
		Content json.RawMessage `json:"content"`
	} `json:"edus"`
}

func (w *world) remote() *remote {
	w.t.Helper()
	key, err := signing.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	r := &remote{w: w, key: key, seen: map[string]bool{}, changed: make(chan struct{})}
	r.srv = httptest.NewUnstartedServer(r)
	r.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	r.srv.EnableHTTP2 = true
	r.srv.TLS = &tls.Config{Certificates: []tls.Certificate{w.cert()}}
	r.srv.StartTLS()
	w.t.Cleanup(r.srv.Close)
	r.name = r.srv.Listener.Addr().String()
	return r
}

// down makes every request fail without an answer; up ends that.
func (r *remote) down() {
	abort := func(*http.Request, []byte) int { panic(http.ErrAbortHandler) }
	r.answer.Store(&abort)
}

func (r *remote) up() { r.answer.Store(nil) }

func (r *remote) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.requests++
	r.now++
	r.most = max(r.most, r.now)
	extra := r.extra
	r.mu.Unlock()
	defer func() { r.mu.Lock(); r.now--; r.mu.Unlock() }()
	if f := r.answer.Load(); f != nil {
		if status := (*f)(q, body); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	if !strings.HasPrefix(q.URL.Path, "/_matrix/federation/v1/send/") {
		if extra != nil {
			extra.ServeHTTP(w, q)
			return
		}
		http.NotFound(w, q)
		return
	}
	if err := r.verify(q, body); err != nil {
		r.w.t.Errorf("transaction: %v", err)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var txn received
	if err := json.Unmarshal(body, &txn); err != nil {
		r.w.t.Errorf("transaction: %v", err)
	}
	r.take(txn)
	fmt.Fprint(w, `{"pdus":{}}`)
}

func (r *remote) verify(q *http.Request, body []byte) error {
	x, err := signing.ParseXMatrix(q.Header.Get("Authorization"))
	if err != nil {
		return err
	}
	key, err := r.w.reg.SigningKey(q.Context(), x.Origin)
	if err != nil {
		return err
	}
	if string(x.Destination) != r.name {
		return fmt.Errorf("destination %s", x.Destination)
	}
	return signing.VerifyRequest(x, q.Method, q.RequestURI, body, key.Public())
}

func (r *remote) take(txn received) {
	if len(txn.PDUs) > maxPDUs || len(txn.EDUs) > maxEDUs {
		r.w.t.Errorf("%d PDUs and %d EDUs in one transaction", len(txn.PDUs), len(txn.EDUs))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.txns = append(r.txns, txn)
	for _, p := range txn.PDUs {
		r.seen[p.ID] = true
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// events are those that arrived, repetitions included, in order.
func (r *remote) events() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.txns {
		for _, p := range t.PDUs {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// edus are the contents of the EDUs of a type that arrived.
func (r *remote) edus(typ string) (contents []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.txns {
		for _, e := range t.EDUs {
			if e.Type == typ {
				contents = append(contents, string(e.Content))
			}
		}
	}
	return contents
}

// until waits for a condition on what arrived.
func (r *remote) until(what string, cond func() bool) {
	r.w.t.Helper()
	deadline := time.After(patient)
	for {
		r.mu.Lock()
		ch := r.changed
		r.mu.Unlock()
		if cond() {
			return
		}
		select {
		case <-ch:
		case <-deadline:
			r.w.t.Fatalf("after %s: %s; %d transactions, %d events", patient, what, len(r.txns), len(r.events()))
		}
	}
}

// gets waits until all of the events have arrived.
func (r *remote) gets(ids ...string) {
	r.w.t.Helper()
	missing := ""
	defer func() {
		if r.w.t.Failed() {
			r.w.t.Log("first missing event: ", missing)
		}
	}()
	r.until("not all events arrived", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range ids {
			if !r.seen[e] {
				missing = e
				return false
			}
		}
		return true
	})
}

// waitFor polls a condition.
func (w *world) waitFor(what string, cond func() bool) {
	w.t.Helper()
	await.True(w.t, patient, what, cond)
}

// hasRead waits until a worker has read the logs of rooms to their ends.
func (w *world) hasRead(k *worker, rooms ...*room) {
	w.t.Helper()
	for _, r := range rooms {
		var head int64
		if err := w.shards.For(r.part).QueryRow(w.t.Context(), `SELECT head FROM partition WHERE part = $1`, int32(r.part)).Scan(&head); err != nil {
			w.t.Fatal(err)
		}
		w.waitFor("the log of "+r.id+" is not read", func() bool {
			at, ok := k.sender.follow.Position(r.part)
			return ok && at >= head
		})
	}
}

// heard says that fedin got something from the server.
func (w *world) heard(r *remote) {
	w.t.Helper()
	if err := destination.New(w.shards, w.bus).Seen(w.t.Context(), id.Server(r.name)); err != nil {
		w.t.Fatal(err)
	}
}

// count is the number of requests so far, transactions that of the transactions taken.
func (r *remote) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func (r *remote) transactions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.txns)
}
