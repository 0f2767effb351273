package servers

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
)

const a, b = id.Server("a.example"), id.Server("b.example:8448")

// Many workers start at once: one key each name, the same for all.
func TestFirstKey(t *testing.T) {
	shards := pgtest.NewSharded(t, 2)
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := Open(t.Context(), shards, []id.Server{a, b}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			for _, n := range r.Names() {
				key, err := r.SigningKey(t.Context(), n)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] += " " + key.ID
			}
		})
	}
	wg.Wait()
	for _, got := range ids {
		if got != ids[0] || got == "" {
			t.Fatalf("keys differ: %q", ids)
		}
	}
}

// Server-server API, "Retrieving server keys": a rotated key stays valid for what it signed.
func TestRotation(t *testing.T) {
	shards := pgtest.New(t)
	r, err := Open(t.Context(), shards, []id.Server{a}, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), shards, []id.Server{a}, nil)
	if err != nil {
		t.Fatal(err)
	}
	old, err := r.SigningKey(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	// A clock that is behind must not make the new key the older one.
	r.now = func() time.Time { return time.Now().Add(-time.Hour) }
	newID, err := r.Rotate(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Registry{r, other} {
		if key, err := r.SigningKey(t.Context(), a); err != nil || key.ID != newID {
			t.Fatalf("signs with %v %v, want %s", key, err, newID)
		}
		keys, err := r.VerifyKeys(a)
		if err != nil || len(keys) != 2 || keys[0].KeyID != newID || keys[0].ExpiredTS != 0 || keys[1].KeyID != old.ID || keys[1].ExpiredTS == 0 {
			t.Fatalf("keys %+v %v", keys, err)
		}
	}
	if _, err := r.SigningKey(t.Context(), b); !errors.Is(err, ErrNotLocal) {
		t.Errorf("key of another server: %v", err)
	}
	if _, err := r.Rotate(t.Context(), b); !errors.Is(err, ErrNotLocal) {
		t.Errorf("rotation of another server: %v", err)
	}
}

// Workers that run sign with a new key without being started again, and so do those that start later.
func TestRunningWorkersTakeKeysUp(t *testing.T) {
	shards := pgtest.New(t)
	open := func() *Registry {
		r, err := Open(t.Context(), shards, []id.Server{a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	worker, operator := open(), open()
	worker.every = 5 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	want, err := operator.Rotate(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	for {
		key, err := worker.SigningKey(ctx, a)
		if err != nil {
			t.Fatal(err)
		}
		if key.ID == want {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the worker still signs with %s, not %s", key.ID, want)
		}
	}
	if key, err := open().SigningKey(ctx, a); err != nil || key.ID != want {
		t.Errorf("a worker that starts signs with %v, not %s: %v", key, want, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestForHost(t *testing.T) {
	r, err := Open(t.Context(), pgtest.New(t), []id.Server{"org.example", "sub.org.example", b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]id.Server{
		"org.example":              "org.example",
		"Matrix.Org.Example:443":   "org.example",
		"matrix.sub.org.example":   "sub.org.example",
		"b.example":                b,
		"b.example:8448":           b,
		"notorg.example":           "org.example",
		"":                         "org.example",
		"[::1]:8008":               "org.example",
		"x.b.example:1":            b,
		"sub.org.example.":         "sub.org.example",
		"evil.sub.org.example.com": "org.example",
	} {
		if got := r.ForHost(host); got != want {
			t.Errorf("%q: %s, want %s", host, got, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	shards := pgtest.New(t)
	for _, names := range [][]id.Server{nil, {"not a name"}, {a, a}} {
		if _, err := Open(t.Context(), shards, names, nil); err == nil {
			t.Errorf("accepted %q", names)
		}
	}
}
