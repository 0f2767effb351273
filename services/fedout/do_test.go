package fedout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/destination"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	fedv1 "hanse/proto/federation/v1"
)

// answer collects what Do streams.
type answer struct {
	grpc.ServerStream
	ctx    context.Context
	status int32
	body   bytes.Buffer
}

func (a *answer) Context() context.Context { return a.ctx }

func (a *answer) Send(m *fedv1.DoResponse) error {
	a.status = max(a.status, m.Status)
	a.body.Write(m.Chunk)
	return nil
}

func (k *worker) do(ctx context.Context, q *fedv1.DoRequest) (*answer, error) {
	a := &answer{ctx: ctx}
	return a, k.Do(q, a)
}

// unreachable returns the detail of an error of Do.
func unreachableDetail(err error) *fedv1.Unreachable {
	var own interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &own) || own.GRPCStatus().Code() != codes.Unavailable {
		return nil
	}
	for _, d := range own.GRPCStatus().Details() {
		if u, ok := d.(*fedv1.Unreachable); ok {
			return u
		}
	}
	return nil
}

func TestDo(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	k := w.start("one")
	a.extra = http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/large":
			_, _ = rw.Write(bytes.Repeat([]byte("x"), 200_000))
		case "/refused":
			rw.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(rw, `{"errcode":"M_FORBIDDEN"}`)
		case "/signed":
			if err := a.verify(q, []byte(`{"a":1}`)); err != nil {
				t.Error(err)
			}
		}
	})
	ctx := t.Context()
	if got, err := k.do(ctx, &fedv1.DoRequest{Origin: ours, Destination: a.name, Method: "GET", Uri: "/large"}); err != nil || got.status != 200 || got.body.Len() != 200_000 {
		t.Errorf("large: %d, %d bytes, %v", got.status, got.body.Len(), err)
	}
	if _, err := k.do(ctx, &fedv1.DoRequest{Origin: ours, Destination: a.name, Method: "GET", Uri: "/large", MaxBytes: 100_000}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too large: %v", err)
	}
	if got, err := k.do(ctx, &fedv1.DoRequest{Origin: ours, Destination: a.name, Method: "GET", Uri: "/refused"}); err != nil || got.status != 403 || !strings.Contains(got.body.String(), "M_FORBIDDEN") {
		t.Errorf("refused: %+v, %v", got, err)
	}
	if got, err := k.do(ctx, &fedv1.DoRequest{Origin: ours, Destination: a.name, Method: "PUT", Uri: "/signed?x=%20", Body: []byte(`{"a":1}`)}); err != nil || got.status != 200 {
		t.Errorf("signed: %+v, %v", got, err)
	}
	for _, bad := range []*fedv1.DoRequest{
		{Origin: ours, Destination: ours, Method: "GET", Uri: "/"},
		{Origin: ours, Destination: "no name", Method: "GET", Uri: "/"},
		{Origin: ours, Destination: a.name, Method: "TRACE", Uri: "/"},
		{Origin: "other.test", Destination: a.name, Method: "GET", Uri: "/"},
	} {
		if _, err := k.do(ctx, bad); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

// Backoff: after a failure requests fail at once, without a connection, in every worker; who must know may still try;
// an answer or traffic ends it.
func TestBackoffOfRequests(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	a.extra = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	one, two := w.start("one"), w.start("two")
	get := func(k *worker, anyway bool) error {
		_, err := k.do(t.Context(), &fedv1.DoRequest{Origin: ours, Destination: a.name, Method: "GET", Uri: "/", IgnoreBackoff: anyway})
		return err
	}
	if err := get(one, false); err != nil {
		t.Fatal(err)
	}
	a.down()
	if u := unreachableDetail(get(one, false)); u == nil || u.Destination != a.name || !u.BackingOff || u.RetryAfterMs <= 0 {
		t.Fatalf("failure: %v", u)
	}
	before := a.count()
	for _, k := range []*worker{one, two} {
		if u := unreachableDetail(get(k, false)); u == nil || !u.BackingOff {
			t.Errorf("while backing off: %v", u)
		}
	}
	if a.count() != before {
		t.Error("a request was made while backing off")
	}
	if err := get(one, true); err == nil || a.count() == before {
		t.Errorf("ignoring the backoff: %v, %d requests", err, a.count()-before)
	}
	a.up()
	if err := get(one, true); err != nil {
		t.Fatal(err)
	}
	if err := get(one, false); err != nil {
		t.Errorf("after an answer: %v", err)
	}
	a.down()
	if err := get(two, true); err == nil {
		t.Error("no failure")
	}
	a.up()
	w.heard(a)
	w.waitFor("traffic from the server does not end the pause", func() bool { return get(two, false) == nil })
}

// A caller that gives up early says nothing about the destination.
func TestImpatientCaller(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	hold := make(chan struct{})
	defer close(hold)
	a.extra = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold })
	k := w.start("one")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := k.do(ctx, &fedv1.DoRequest{Origin: ours, Destination: a.name, Method: "GET", Uri: "/"}); err == nil {
		t.Fatal("no error")
	}
	if st, err := destination.New(w.shards, w.bus).Get(t.Context(), id.Server(a.name)); err != nil || st.Failures != 0 {
		t.Errorf("state %+v, %v", st, err)
	}
}

// keyServer answers key requests as another server does.
type keyServer struct {
	*remote
	asked  int
	keys   map[string]*signing.Key
	old    map[string]int64 // expired_ts
	until  time.Time
	signer *signing.Key // nil: the current ones
	name   string
}

func (w *world) keyServer() *keyServer {
	r := w.remote()
	ks := &keyServer{remote: r, keys: map[string]*signing.Key{r.key.ID: r.key}, old: map[string]int64{}, until: time.Now().Add(time.Hour), name: r.name}
	r.extra = ks
	return ks
}

func (ks *keyServer) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if q.URL.Path != "/_matrix/key/v2/server" {
		http.NotFound(w, q)
		return
	}
	ks.asked++
	_, _ = w.Write(ks.document())
}

func (ks *keyServer) document() []byte {
	verify, old := map[string]any{}, map[string]any{}
	for keyID, k := range ks.keys {
		text := signing.Encode(k.Public())
		if at, ok := ks.old[keyID]; ok {
			old[keyID] = map[string]any{"key": text, "expired_ts": at}
		} else {
			verify[keyID] = map[string]any{"key": text}
		}
	}
	doc, err := canonjson.Marshal(map[string]any{"server_name": ks.name, "valid_until_ts": ks.until.UnixMilli(), "verify_keys": verify, "old_verify_keys": old})
	if err != nil {
		panic(err)
	}
	for keyID, k := range ks.keys {
		if _, expired := ks.old[keyID]; expired {
			continue
		}
		if ks.signer != nil {
			k = &signing.Key{ID: keyID, Private: ks.signer.Private}
		}
		if doc, err = signing.SignJSON(doc, id.Server(ks.name), k); err != nil {
			panic(err)
		}
	}
	return doc
}

func (w *world) ring(k *worker) *keyring.Ring {
	return keyring.New(keyring.Deps{Store: keyring.NewStore(w.shards), Servers: w.reg, Fetcher: local{k.Service}})
}

func (ks *keyServer) request(t *testing.T, ring *keyring.Ring, key *signing.Key) error {
	t.Helper()
	header, err := signing.SignRequest("GET", "/x", id.Server(ks.remote.name), ours, nil, key)
	if err != nil {
		t.Fatal(err)
	}
	x, err := signing.ParseXMatrix(header)
	if err != nil {
		t.Fatal(err)
	}
	return ring.VerifyRequest(t.Context(), x, "GET", "/x", nil)
}

// Server-server API, "Retrieving server keys": fetched once, remembered by all, refreshed when they end, old ones for
// events only.
func TestKeys(t *testing.T) {
	w := newWorld(t)
	a := w.keyServer()
	k := w.start("one")
	ring := w.ring(k)
	for range 3 {
		if err := a.request(t, ring, a.key); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.request(t, w.ring(k), a.key); err != nil || a.asked != 1 {
		t.Fatalf("from the table: %v; asked %d times", err, a.asked)
	}
	stranger, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	forged := &signing.Key{ID: a.key.ID, Private: stranger.Private}
	if err := a.request(t, ring, forged); !errors.Is(err, signing.ErrSignature) {
		t.Errorf("forged: %v", err)
	}
	for range 20 {
		if err := a.request(t, ring, stranger); !errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("unknown key: %v", err)
		}
	}
	if a.asked != 2 {
		t.Errorf("asked %d times because of a key that does not exist", a.asked)
	}
}

func TestKeyExpiry(t *testing.T) {
	w := newWorld(t)
	a := w.keyServer()
	k := w.start("one")
	a.until = time.Now().Add(-time.Minute)
	ring := w.ring(k)
	if err := a.request(t, ring, a.key); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("a key that has ended: %v", err)
	}
	a.mu.Lock()
	a.until = time.Now().Add(365 * 24 * time.Hour)
	a.mu.Unlock()
	k.fetcher.judge(id.Server(a.remote.name), true) // the pause is over
	if err := a.request(t, ring, a.key); err != nil {
		t.Errorf("after it was renewed: %v", err)
	}
	stored, err := keyring.NewStore(w.shards).KeysOf(t.Context(), id.Server(a.remote.name))
	if err != nil {
		t.Fatal(err)
	}
	if until := time.UnixMilli(stored[a.key.ID].ValidUntil); until.After(time.Now().Add(keyring.MaxTrust + time.Minute)) {
		t.Errorf("a key is trusted until %s", until)
	}

	// The key is rotated out: events from before its end verify, later ones and requests do not.
	fresh, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(-time.Hour)
	a.mu.Lock()
	a.keys[fresh.ID], a.old[a.key.ID] = fresh, end.UnixMilli()
	a.mu.Unlock()
	k.fetcher.judge(id.Server(a.remote.name), true)
	ring = w.ring(k)
	if err := a.request(t, ring, fresh); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	ring = w.ring(k)
	if err := a.request(t, ring, a.key); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("a request with the old key: %v", err)
	}
	for version, late := range map[string]bool{"10": false, "3": true} {
		if err := ring.VerifyEvent(t.Context(), signedEvent(t, a, version, end.Add(-time.Minute))); err != nil {
			t.Errorf("version %s, before its end: %v", version, err)
		}
		err := ring.VerifyEvent(t.Context(), signedEvent(t, a, version, end.Add(time.Minute)))
		if late != (err == nil) {
			t.Errorf("version %s, after its end: %v", version, err)
		}
	}
}

func signedEvent(t *testing.T, a *keyServer, version string, at time.Time) *event.PDU {
	t.Helper()
	rules, ok := roomversion.Get(version)
	if !ok {
		t.Fatal("no room version ", version)
	}
	pdu, err := event.Build(event.Draft{RoomID: id.Room("!r:" + a.remote.name), Type: "m.room.message", Sender: id.User("@u:" + a.remote.name),
		Content: json.RawMessage(`{"body":"x"}`), Depth: 1, OriginServerTS: at.UnixMilli()}, rules, id.Server(a.remote.name), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

// Many events cost one look-up, and the bad ones among them are told apart.
func TestVerifyEvents(t *testing.T) {
	w := newWorld(t)
	a, b := w.keyServer(), w.keyServer()
	b.extra = http.NotFoundHandler() // its keys are not to be had
	ring := w.ring(w.start("one"))
	var pdus []*event.PDU
	for i := range 60 {
		from := a
		if i%3 == 2 {
			from = b
		}
		pdu := signedEvent(t, from, "10", time.Now().Add(-time.Minute))
		if i%3 == 1 {
			bad, err := event.ParseTrusted(bytes.Replace(pdu.JSON, []byte(`"depth":1`), []byte(`"depth":2`), 1), pdu.ID, pdu.Rules)
			if err != nil {
				t.Fatal(err)
			}
			pdu = bad
		}
		pdus = append(pdus, pdu)
	}
	errs, err := ring.VerifyEvents(t.Context(), pdus)
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		ok := i%3 == 0 && err == nil || i%3 == 1 && errors.Is(err, signing.ErrSignature) || i%3 == 2 && errors.Is(err, keyring.ErrNoKey)
		if !ok {
			t.Errorf("event %d: %v", i, err)
		}
	}
	if a.asked != 1 {
		t.Errorf("asked %d times", a.asked)
	}
	own, err := w.reg.SigningKey(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := signing.SignJSON([]byte(`{"a":1}`), ours, own)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.VerifyJSON(t.Context(), ours, obj, time.Now().UnixMilli()); err != nil {
		t.Errorf("with a key of ours: %v", err)
	}
}

// Answers that are not what they should be give no keys.
func TestBadKeyAnswers(t *testing.T) {
	w := newWorld(t)
	k := w.start("one")
	stranger, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*keyServer){
		"of another server": func(a *keyServer) { a.name = "other.test" },
		"wrongly signed":    func(a *keyServer) { a.signer = stranger },
		"not JSON": func(a *keyServer) {
			a.extra = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
		},
		"too large": func(a *keyServer) {
			a.extra = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte(" "), keyBytes+1)) })
		},
		"an error": func(a *keyServer) { a.extra = http.NotFoundHandler() },
	} {
		a := w.keyServer()
		spoil(a)
		if err := a.request(t, w.ring(k), a.key); !errors.Is(err, keyring.ErrNoKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A trusted key server answers for one that does not; nobody else does.
func TestNotary(t *testing.T) {
	w := newWorld(t)
	dead, notary := w.keyServer(), w.keyServer()
	dead.extra = http.NotFoundHandler()
	notary.remote.extra = http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/_matrix/key/v2/query" {
			notary.ServeHTTP(rw, q)
			return
		}
		doc, err := signing.SignJSON(dead.document(), id.Server(notary.remote.name), notary.key)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(rw, `{"server_keys":[%s]}`, doc)
	})
	k := w.start("one")
	if err := dead.request(t, w.ring(k), dead.key); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("without a trusted key server: %v", err)
	}
	k = w.start("two")
	k.keyServers = []string{notary.remote.name}
	if err := dead.request(t, w.ring(k), dead.key); err != nil {
		t.Errorf("with a trusted key server: %v", err)
	}
}

// A server that lets requests wait takes no more than its share of them: other servers can be asked meanwhile.
func TestRequestsToHangingServer(t *testing.T) {
	w := newWorld(t)
	hangs, good := w.remote(), w.remote()
	release := make(chan struct{})
	var inside atomic.Int32
	wait := func(*http.Request, []byte) int { inside.Add(1); <-release; return http.StatusOK }
	hangs.answer.Store(&wait)
	good.extra = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	k := w.start("one", func(c *Config) { c.Requests = 2 * shareOfOne })
	get := func(r *remote) error {
		_, err := k.do(t.Context(), &fedv1.DoRequest{Origin: ours, Destination: r.name, Method: "GET", Uri: "/"})
		return err
	}
	ended := make(chan error, 2)
	for range 2 {
		go func() { ended <- get(hangs) }()
	}
	w.waitFor("the requests are not under way", func() bool { return inside.Load() == 2 })
	if u := unreachableDetail(get(hangs)); u == nil || u.BackingOff {
		t.Errorf("one more than its share: %v", u)
	}
	if err := get(good); err != nil {
		t.Errorf("another server: %v", err)
	}
	close(release)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	hangs.up()
	if err := get(hangs); status.Code(err) == codes.Unavailable {
		t.Errorf("afterwards: %v", err)
	}
}

// A request that is made often is not made while the server backs off and somebody has waited for it in vain; one that a
// user waits for is.
func TestSparingRequest(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	a.extra = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	k := w.start("one")
	get := func(sparing bool) *fedv1.Unreachable {
		_, err := k.do(t.Context(), &fedv1.DoRequest{Origin: ours, Destination: a.name, Method: "GET", Uri: "/", IgnoreBackoff: true, Sparing: sparing})
		if err == nil {
			return nil
		}
		return unreachableDetail(err)
	}
	a.down()
	if u := get(true); u == nil || u.Untried {
		t.Fatalf("first attempt: %v", u)
	}
	k.vain.waited(id.Server(a.name), time.Hour)
	if u := get(true); u == nil || !u.Untried {
		t.Errorf("after a long wait: %v", u)
	}
	a.up()
	if u := get(false); u != nil {
		t.Errorf("a user waits: %v", u)
	}
	if u := get(true); u != nil {
		t.Errorf("it has answered since: %v", u)
	}
}
