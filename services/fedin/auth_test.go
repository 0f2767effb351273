package fedin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hanse/pkg/destination"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/servers"
)

const profileURI = "/_matrix/federation/v1/query/profile?user_id=%40anna%3Aa.example"

// Server-server API, "Request Authentication".
func TestRequestAuthentication(t *testing.T) {
	w := newWorker(t)
	w.account("anna")
	s := w.server("one.example")
	s.do("GET", profileURI, nil).ok()
	good := s.sign("GET", profileURI, "a.example", nil)
	other := w.server("two.example")
	cases := []struct {
		name, header string
		status       int
	}{
		{"no header", "", 401},
		{"another scheme", "Bearer x", 401},
		{"malformed", `X-Matrix origin="one.example"`, 400},
		{"another destination", s.sign("GET", profileURI, "c.example", nil), 401},
		{"another path", s.sign("GET", profileURI+"x", "a.example", nil), 401},
		{"another method", s.sign("PUT", profileURI, "a.example", nil), 401},
		{"another body", s.sign("GET", profileURI, "a.example", []byte(`{}`)), 401},
		{"another origin", strings.Replace(good, "one.example", "two.example", 1), 401},
		{"another key", strings.Replace(good, s.key.ID, "ed25519:none", 1), 401},
		{"other's signature", strings.Replace(other.sign("GET", profileURI, "a.example", nil), "two.example", "one.example", 1), 401},
	}
	for _, c := range cases {
		r := w.do("GET", profileURI, c.header, nil)
		if r.status != c.status || r.get("errcode").Str != merr.CodeUnauthorized {
			t.Errorf("%s: %d %s", c.name, r.status, r.raw)
		}
	}
	own, err := w.names.SigningKey(t.Context(), "a.example")
	must(t, err)
	self := &server{w, "a.example", own}
	self.do("GET", profileURI, nil).fails(403, merr.CodeForbidden)

	// Old servers leave the destination out of the header, though not out of what they sign.
	if r := w.do("GET", profileURI, strings.Replace(good, `destination="a.example",`, "", 1), nil); r.status != 200 {
		t.Errorf("without a destination: %d %s", r.status, r.raw)
	}
	// The cluster's other name.
	if r := w.do("GET", profileURI, s.sign("GET", profileURI, "b.example", nil), nil); r.status != 200 {
		t.Errorf("for our other name: %d %s", r.status, r.raw)
	}
	// Escapes in the path are signed as they are sent.
	uri := "/_matrix/federation/v1/user/devices/@anna%3aa.example"
	if r := s.do("GET", uri, nil); r.status != 200 {
		t.Errorf("unusual escapes: %d %s", r.status, r.raw)
	}
}

// A key that cannot be had is asked for once a minute, however many requests claim to be signed by it.
func TestStrangersCostLittle(t *testing.T) {
	w := newWorker(t)
	key, err := signing.NewKey()
	must(t, err)
	s := &server{w, "stranger.example", key} // nobody has its keys
	for range 10 {
		s.do("GET", profileURI, nil).fails(401, merr.CodeUnauthorized)
	}
	if n := w.others.askedFor("stranger.example"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Who makes up key after key in a server's name makes us ask it a few times, and does not keep it out.
func TestMadeUpKeys(t *testing.T) {
	w := newWorker(t)
	w.account("anna")
	s := w.server("victim.example")
	s.do("GET", profileURI, nil).ok()
	for range 3 * madeUpKeys {
		key, err := signing.NewKey()
		must(t, err)
		(&server{w, s.name, key}).do("GET", profileURI, nil).fails(401, merr.CodeUnauthorized)
	}
	if n := w.others.askedFor("victim.example"); n != 1+madeUpKeys {
		t.Errorf("asked %d times", n)
	}
	s.do("GET", profileURI, nil).ok()
}

// A key that expired verifies events, but no requests.
func TestExpiredKey(t *testing.T) {
	w := newWorker(t)
	key, err := signing.NewKey()
	must(t, err)
	for name, k := range map[id.Server]keyring.Key{
		"old.example":  {Public: key.Public(), ValidUntil: time.Now().Add(time.Hour).UnixMilli(), Expired: true},
		"late.example": {Public: key.Public(), ValidUntil: time.Now().Add(-time.Hour).UnixMilli()},
	} {
		must(t, w.keys.Put(t.Context(), name, map[string]keyring.Key{key.ID: k}, []byte(`{}`), time.Now()))
		(&server{w, name, key}).do("GET", profileURI, nil).fails(401, merr.CodeUnauthorized)
	}
}

// A server that speaks to us is not left alone any longer.
func TestSeenServerIsTriedAgain(t *testing.T) {
	w := newWorker(t)
	w.account("anna")
	s := w.server("back.example")
	store := destination.New(w.shards, w.bus)
	_, err := store.Failed(t.Context(), s.name, time.Now())
	must(t, err)
	woken := make(chan uint32, 10)
	sub, err := w.bus.SubscribeFedout(func(part uint32) { woken <- part })
	must(t, err)
	defer sub.Stop()
	must(t, w.bus.Conn().Flush())
	s.do("GET", profileURI, nil).ok()
	select {
	case part := <-woken:
		if part != partition.Of(string(s.name)) {
			t.Errorf("partition %d", part)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("fedout was not woken")
	}
	failing, err := store.Failing(t.Context(), partition.Of(string(s.name)))
	if err != nil || len(failing) != 0 {
		t.Errorf("%v %v", failing, err)
	}
}

func TestGates(t *testing.T) {
	var g gates
	first, err := g.enter(t.Context(), "x", "a", 1, 1)
	must(t, err)
	if _, err := g.enter(t.Context(), "x", "b", 1, 0); err != nil {
		t.Fatal("another server waits")
	}
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() {
		_, err := g.enter(ctx, "x", "a", 1, 1)
		waits <- err
	}()
	for {
		g.mu.Lock()
		n := g.open[gateName{"x", "a"}].users
		g.mu.Unlock()
		if n == 2 {
			break
		}
	}
	if _, err := g.enter(t.Context(), "x", "a", 1, 1); !merr.HasCode(err, merr.CodeLimitExceeded) {
		t.Fatalf("a third one: %v", err)
	}
	cancel()
	if err := <-waits; err == nil {
		t.Fatal("entered")
	}
	first()
	if _, ok := g.open[gateName{"x", "a"}]; ok {
		t.Fatal("the gate is left behind")
	}
}

// knownNames are local server names, without keys.
type knownNames struct{}

func (knownNames) IsLocal(s id.Server) bool { return s == "a.example" }
func (knownNames) ForHost(string) id.Server { return "a.example" }
func (knownNames) SigningKey(context.Context, id.Server) (*signing.Key, error) {
	return nil, servers.ErrNotLocal
}
func (knownNames) VerifyKeys(id.Server) ([]servers.VerifyKey, error) { return nil, servers.ErrNotLocal }

// FuzzAuthorization: no header makes us believe in a request of ours, or for others.
func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{
		`X-Matrix origin="one.example",destination="a.example",key="ed25519:1",sig="AAAA"`,
		`x-matrix   key=ed25519:1 , sig=AAAA,origin=one.example:8448`, `X-Matrix origin="a.example",key="ed25519:1",sig=""`, `Bearer x`, `X-Matrix `,
		`X-Matrix origin="one.example",origin="a.example",key="ed25519:1",sig="A"`, "X-Matrix origin=\"\\\"",
	} {
		f.Add(s)
	}
	in := &Fedin{servers: knownNames{}}
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Authorization"] = []string{header}
		x, err := in.header(r)
		if err != nil {
			if e, ok := merr.As(err); !ok || e.Status >= 500 {
				t.Fatalf("%v", err)
			}
			return
		}
		if x.Origin == "" || x.Origin == "a.example" || x.Destination != "a.example" || x.KeyID == "" || x.Sig == "" {
			t.Fatalf("%q: %+v", header, x)
		}
	})
}
