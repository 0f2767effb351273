package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"hanse/pkg/bus/bustest"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/servers"
	fedv1 "hanse/proto/federation/v1"
)

const (
	own    = id.Server("own.example")
	theirs = id.Server("theirs.example")
)

// names are local servers: one name whose keys are given.
type names []servers.VerifyKey

func (names) IsLocal(s id.Server) bool                            { return s == own }
func (n names) VerifyKeys(id.Server) ([]servers.VerifyKey, error) { return n, nil }

// others is a fedout: it answers with all keys that a server tells, and stores them.
type others struct {
	mu    sync.Mutex
	keys  map[string]Key
	store *Store
	asked int
}

func (o *others) tell(t *testing.T, keys map[string]Key) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keys = keys
}

func (o *others) Keys(ctx context.Context, in *fedv1.KeysRequest, _ ...grpc.CallOption) (*fedv1.KeysResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked += len(in.Queries)
	if err := o.store.Put(ctx, theirs, o.keys, []byte(`{}`), time.Now()); err != nil {
		return nil, err
	}
	resp := new(fedv1.KeysResponse)
	for keyID, k := range o.keys {
		resp.Keys = append(resp.Keys, &fedv1.ServerKey{Server: string(theirs), KeyId: keyID, PublicKey: k.Public, ValidUntilMs: k.ValidUntil, Expired: k.Expired})
	}
	return resp, nil
}

func newKey(t *testing.T, keyID string) *signing.Key {
	t.Helper()
	key, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key.ID = "ed25519:" + keyID
	return key
}

func message(t *testing.T, version string, sender id.User, key *signing.Key, ts int64, content string) *event.PDU {
	t.Helper()
	rules, _ := roomversion.Get(version)
	room, typ := id.Room("!r:theirs.example"), "m.room.message"
	if rules.RoomIDIsCreateHash {
		room = "!abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
	}
	d := event.Draft{RoomID: room, Type: typ, Sender: sender, Content: json.RawMessage(content), Depth: 2, OriginServerTS: ts, PrevEvents: []id.Event{"$p:x"}, AuthEvents: []id.Event{"$a:x"}}
	if strings.Contains(content, "membership") {
		target := "@target:own.example"
		d.Type, d.StateKey = "m.room.member", &target
	}
	pdu, err := event.Build(d, rules, sender.Server(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

// Server-server API, "Publishing Keys", old_verify_keys: a key that its server has declared old verifies no events from after
// its end, at once and in all workers; those from before it goes on to verify.
func TestOldKeyStopsAtOnce(t *testing.T) {
	shards := pgtest.NewSharded(t, 2)
	store := NewStore(shards)
	o := &others{store: store}
	b := bustest.New(t).Open("keys")
	rings := []*Ring{New(Deps{Store: store, Servers: names{}, Fetcher: o}), New(Deps{Store: store, Servers: names{}, Fetcher: o})}
	stop, err := rings[1].Follow(b)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	now := time.Now().UnixMilli()
	first, second := newKey(t, "first"), newKey(t, "second")
	o.tell(t, map[string]Key{first.ID: {Public: first.Public(), ValidUntil: now + 1_000_000}})
	before, after := message(t, "11", "@a:theirs.example", first, now-1000, `{"body":"x"}`), message(t, "11", "@a:theirs.example", first, now, `{"body":"x"}`)
	for _, r := range rings {
		for _, pdu := range []*event.PDU{before, after} {
			if err := r.VerifyEvent(t.Context(), pdu); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.tell(t, map[string]Key{first.ID: {Public: first.Public(), ValidUntil: now - 500, Expired: true}, second.ID: {Public: second.Public(), ValidUntil: now + 1_000_000}})
	if err := rings[0].VerifyEvent(t.Context(), message(t, "11", "@a:theirs.example", second, now, `{}`)); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishKeys(string(theirs)); err != nil {
		t.Fatal(err)
	}
	if err := b.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	for i, r := range rings {
		deadline := time.Now().Add(time.Minute)
		for {
			err := r.VerifyEvent(t.Context(), after)
			if errors.Is(err, ErrNoKey) {
				break
			}
			if i == 0 || time.Now().After(deadline) {
				t.Fatalf("ring %d: an event from after the end of its key: %v", i, err)
			}
			<-time.After(time.Millisecond)
		}
		if err := r.VerifyEvent(t.Context(), before); err != nil {
			t.Errorf("an event from before the end of its key: %v", err)
		}
		x := signing.XMatrix{Origin: theirs, KeyID: first.ID}
		if err := r.VerifyRequest(t.Context(), x, "GET", "/", nil); !errors.Is(err, ErrNoKey) {
			t.Errorf("a request: %v", err)
		}
		if err := r.VerifyEvent(t.Context(), message(t, "4", "@a:theirs.example", first, now, `{}`)); err != nil {
			t.Errorf("before version 5 the time does not matter: %v", err)
		}
	}
}

// Server-server API, "Validating hashes and signatures on received events": who must have signed what, by room version.
func TestWhoMustSign(t *testing.T) {
	now := time.Now().UnixMilli()
	key, expired, stranger := newKey(t, "own"), newKey(t, "old"), newKey(t, "own")
	r := New(Deps{Store: NewStore(pgtest.NewSharded(t, 1)), Servers: names{
		{KeyID: key.ID, Public: key.Public()}, {KeyID: expired.ID, Public: expired.Public(), ExpiredTS: now - 1000}}})
	third := `{"membership":"invite","third_party_invite":{"signed":{}}}`
	for _, c := range []struct {
		what, version string
		key           *signing.Key
		ts            int64
		content       string
		good          bool
	}{
		{"ours", "11", key, now, `{}`, true},
		{"a stranger's under our name", "11", stranger, now, `{}`, false},
		{"our old key, in its time", "11", expired, now - 2000, `{}`, true},
		{"our old key, after its end", "11", expired, now, `{}`, false},
		{"our old key, after its end, where that does not matter", "4", expired, now, `{}`, true},
		{"a third party's invite", "3", stranger, now, third, true},
		{"a third party's invite", "11", stranger, now, third, true},
		{"a third party's invite, whose id names us", "1", stranger, now, third, false},
		{"a third party's invite, whose id names us", "2", key, now, third, true},
		{"an invite", "11", stranger, now, `{"membership":"invite"}`, false},
	} {
		err := r.VerifyEvent(t.Context(), message(t, c.version, "@a:own.example", c.key, c.ts, c.content))
		if (err == nil) != c.good {
			t.Errorf("version %s, %s: %v", c.version, c.what, err)
		}
	}
}

// An event may carry any number of signatures; so many keys are asked for.
func TestManySignatures(t *testing.T) {
	o := &others{store: NewStore(pgtest.NewSharded(t, 1))}
	r := New(Deps{Store: o.store, Servers: names{}, Fetcher: o})
	key := newKey(t, "k")
	pdu := message(t, "12", "@a:theirs.example", key, 1, `{}`)
	var extra strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&extra, `"ed25519:x%d":"x",`, i)
	}
	raw := strings.Replace(string(pdu.JSON), `"theirs.example":{`, `"theirs.example":{`+extra.String(), 1)
	many, err := event.Parse([]byte(raw), pdu.Rules)
	if err != nil || many.ID != pdu.ID {
		t.Fatal(err)
	}
	if err := r.VerifyEvent(t.Context(), many); !errors.Is(err, ErrNoKey) || o.asked > keysPerSigner {
		t.Errorf("%d keys are asked for: %v", o.asked, err)
	}
}

// Of many events at once each gets the verdict that it gets alone.
func TestTogetherAsAlone(t *testing.T) {
	o := &others{store: NewStore(pgtest.NewSharded(t, 1))}
	r := New(Deps{Store: o.store, Servers: names{}, Fetcher: o})
	now := time.Now().UnixMilli()
	keys := []*signing.Key{newKey(t, "current"), newKey(t, "old"), newKey(t, "unknown")}
	o.tell(t, map[string]Key{keys[0].ID: {Public: keys[0].Public(), ValidUntil: now + 1_000_000}, keys[1].ID: {Public: keys[1].Public(), ValidUntil: now - 1000, Expired: true}})
	rnd := rand.New(rand.NewPCG(1, 2))
	versions := roomversion.Supported()
	var pdus []*event.PDU
	for i := range 300 {
		content := []string{`{"i":%d}`, `{"membership":"invite","i":%d}`, `{"membership":"invite","third_party_invite":{},"i":%d}`}[rnd.IntN(3)]
		pdus = append(pdus, message(t, versions[rnd.IntN(len(versions))], "@a:theirs.example", keys[rnd.IntN(3)], now-2000+int64(rnd.IntN(2))*1500, fmt.Sprintf(content, i)))
	}
	errs, err := r.VerifyEvents(t.Context(), pdus)
	if err != nil {
		t.Fatal(err)
	}
	good := 0
	for i, pdu := range pdus {
		if alone := r.VerifyEvent(t.Context(), pdu); (alone == nil) != (errs[i] == nil) {
			t.Errorf("version %s: %v together, %v alone", pdu.Rules.Version, errs[i], alone)
		} else if alone == nil {
			good++
		}
	}
	if good == 0 || good == len(pdus) {
		t.Errorf("%d of %d verify", good, len(pdus))
	}
}
