package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hanse/pkg/appservice"
	"hanse/pkg/await"
	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/userdb"
)

// worker is a worker with a checker of its own on the cluster's bus.
type worker struct {
	*Checker
	users *userdb.DB
}

func newWorkers(t *testing.T, n int) []*worker {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b, err := bus.Open(ctx, bus.Config{StoreDir: t.TempDir()})
	must(t, err)
	shards := pgtest.NewSharded(t, 2)
	var wg sync.WaitGroup
	var all []*worker
	for range n {
		w := &worker{users: userdb.New(shards, b)}
		w.Checker, err = New(Defaults(), w.users, appservice.Of(), b, nil, nil)
		must(t, err)
		wg.Go(func() { _ = w.Run(ctx) })
		all = append(all, w)
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		b.Close()
	})
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func request(token string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func (w *worker) login(t *testing.T, user id.User, device id.Device) string {
	t.Helper()
	_, err := w.users.CreateAccount(t.Context(), userdb.NewAccount{User: user})
	must(t, err)
	token, hash := NewToken(AccessToken, partition.Of(string(user)))
	_, err = w.users.AddLogin(t.Context(), userdb.Login{User: user, Device: device, Access: hash})
	must(t, err)
	return token
}

// A token is known at every worker at once, and forgotten at every worker when it is revoked.
func TestRevocationReachesAllWorkers(t *testing.T) {
	ws := newWorkers(t, 2)
	token := ws[0].login(t, "@a:x.example", "D")
	for _, w := range ws {
		for range 2 {
			i, err := w.Authenticate(request(token))
			must(t, err)
			if i.User != "@a:x.example" || i.Device != "D" {
				t.Fatalf("identity %+v", i)
			}
		}
	}
	_, err := ws[0].users.DeleteDevices(t.Context(), "@a:x.example", []id.Device{"D"})
	must(t, err)
	for _, w := range ws {
		await.True(t, 2*time.Minute, "the token is known to be void", func() bool {
			_, err := w.Authenticate(request(token))
			return merr.HasCode(err, merr.CodeUnknownToken)
		})
	}
}

// What was looked up before a revocation is not remembered after it, however the two race.
func TestLookUpDoesNotOutliveRevocation(t *testing.T) {
	w := newWorkers(t, 1)[0]
	now := time.Unix(1000, 0)
	w.now = func() time.Time { return now }
	w.floor = now.Add(-time.Hour)
	owner := userdb.Owner{User: "@a:x.example", Device: "D"}
	hash := sha256.Sum256([]byte("t"))
	w.remember(hash, owner, now)
	if _, ok := w.fromMemory(hash); !ok {
		t.Fatal("not remembered")
	}
	for _, device := range []id.Device{"", "D"} {
		now = now.Add(time.Second)
		began := now
		now = now.Add(time.Second)
		w.Forget(owner.User, device)
		if _, ok := w.fromMemory(hash); ok {
			t.Errorf("device %q: remembered after it was revoked", device)
		}
		w.remember(hash, owner, began)
		if _, ok := w.fromMemory(hash); ok {
			t.Errorf("device %q: a look-up from before the revocation was remembered", device)
		}
		now = now.Add(time.Second)
		w.remember(hash, owner, now)
		if _, ok := w.fromMemory(hash); !ok {
			t.Errorf("device %q: a new look-up was not remembered", device)
		}
	}
	w.Forget(owner.User, "OTHER")
	if _, ok := w.fromMemory(hash); !ok {
		t.Error("forgotten with another device")
	}
	w.ForgetAll()
	if _, ok := w.fromMemory(hash); ok {
		t.Error("not forgotten with all")
	}
	w.remember(hash, owner, now.Add(time.Second))
	now = now.Add(2 * time.Hour)
	if _, ok := w.fromMemory(hash); ok {
		t.Error("remembered for ever")
	}
}

// If PostgreSQL does not answer, nobody is logged out.
func TestDatabaseErrorIsNoUnknownToken(t *testing.T) {
	ctx := t.Context()
	b, err := bus.Open(ctx, bus.Config{StoreDir: t.TempDir()})
	must(t, err)
	t.Cleanup(b.Close)
	cfg := pgtest.Config(t, 1)
	shards, err := pg.Open(ctx, cfg)
	must(t, err)
	users := userdb.New(shards, b)
	c, err := New(Defaults(), users, nil, b, nil, nil)
	must(t, err)
	w := &worker{c, users}
	token := w.login(t, "@a:x.example", "D")
	shards.Close()
	_, err = c.Authenticate(request(token))
	var e *merr.Error
	if err == nil || errors.As(err, &e) {
		t.Errorf("error %v, want one that is no Matrix error", err)
	}
}

// Client-server API, "Using access tokens".
func TestToken(t *testing.T) {
	for header, want := range map[string]string{"Bearer x": "x", "bearer  y ": "y", "Basic z": "", "Bearer": "", "Bearer ": ""} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", header)
		got, err := Token(r)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", header, got, err)
		}
	}
	if got, err := Token(httptest.NewRequest("GET", "/?access_token=q", nil)); err != nil || got != "q" {
		t.Errorf("query: %q, %v", got, err)
	}
	if _, err := Token(request("")); !merr.HasCode(err, merr.CodeMissingToken) {
		t.Errorf("no token: %v", err)
	}
}

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.Uint32Range(0, 1<<31-1).Draw(t, "part")
		token, hash := NewToken(AccessToken, part)
		p, h, ok := ParseToken(AccessToken, token)
		if !ok || p != part || h != hash {
			t.Fatalf("%s: %d %t", token, p, ok)
		}
		if _, _, ok := ParseToken(RefreshToken, token); ok {
			t.Fatal("an access token was taken for a refresh token")
		}
	})
}

func FuzzParseToken(f *testing.F) {
	good, _ := NewToken(AccessToken, 5)
	for _, s := range []string{good, good[:20], "hat_", "", "hat_" + good, "hat_AA", "hat_____"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		part, _, ok := ParseToken(AccessToken, s)
		if !ok {
			return
		}
		if part > 1<<31-1 || len(s) > 64 {
			t.Errorf("%q was accepted", s)
		}
	})
}

// The last use of devices is stored now and then, not with each request.
func TestSeen(t *testing.T) {
	w := newWorkers(t, 1)[0]
	token := w.login(t, "@a:x.example", "D")
	r := request(token)
	r.RemoteAddr, r.Header["User-Agent"] = "192.0.2.7:99", []string{"Test\x00/1"}
	for range 3 {
		_, err := w.Authenticate(r)
		must(t, err)
	}
	if n := len(w.seen.waiting); n != 1 {
		t.Fatalf("%d devices wait", n)
	}
	w.flushSeen(t.Context())
	d, err := w.users.Device(t.Context(), "@a:x.example", "D")
	must(t, err)
	if d.LastSeenTs == nil || d.LastSeenIp == nil || *d.LastSeenIp != "192.0.2.7" || *d.UserAgent != "Test?/1" {
		t.Errorf("device %+v", d)
	}
	_, err = w.Authenticate(r)
	must(t, err)
	if len(w.seen.waiting) != 0 {
		t.Error("noted again at once")
	}
}
