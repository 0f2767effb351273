package admin

import (
	"errors"
	"testing"
	"time"

	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/servers"
)

// After a restore what was signed before counts no more, and what is signed from then on does.
func TestRenewSecret(t *testing.T) {
	a := newAdmin(t, "one.example")
	key := func() *mac.Key {
		t.Helper()
		s, err := mac.Load(t.Context(), a.shards, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s.Key("resolution")
	}
	now := time.Now()
	signed := key().Sign("name", []byte("1 follows 2"), now.Add(time.Hour))
	if _, err := key().Open("name", signed, now); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := a.RenewSecret(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := key().Open("name", signed, now); !errors.Is(err, mac.ErrForged) {
		t.Fatalf("after: %v", err)
	}
	if _, err := key().Open("name", key().Sign("name", nil, now.Add(time.Hour)), now); err != nil {
		t.Fatalf("the new secret: %v", err)
	}
}

// Server-server API, "Publishing Keys": a key that was replaced is known for what it has signed, and ends.
func TestRotateKey(t *testing.T) {
	const one, two = "one.example", "two.example"
	a := newAdmin(t, one, two)
	of := func(server id.Server) ServerKeys {
		t.Helper()
		all, err := a.Keys(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatalf("%d servers: %v", len(all), err)
		}
		for _, s := range all {
			if s.Server == server {
				return s
			}
		}
		t.Fatalf("no keys of %s", server)
		return ServerKeys{}
	}
	first, others := of(one), of(two)
	name, key, err := a.RotateKey(t.Context(), "")
	if err != nil || name != one || key == first.Current {
		t.Fatalf("rotated %s to %s: %v", name, key, err)
	}
	now := of(one)
	if now.Current != key || len(now.All) != 2 || now.All[1].KeyID != first.Current || now.All[0].ExpiredTS != 0 || now.All[1].ExpiredTS == 0 {
		t.Errorf("after the rotation: %+v", now)
	}
	if same := of(two); same.Current != others.Current || len(same.All) != 1 {
		t.Errorf("keys of the other server: %+v", same)
	}

	old, older := newKey(t), newKey(t)
	name, ids, err := a.ImportKeys(t.Context(), two, signing.FormatKey(old)+"\n"+signing.FormatKey(older)+"\n")
	if err != nil || name != two || len(ids) != 2 || ids[0] != old.ID {
		t.Fatalf("imported %v for %s: %v", ids, name, err)
	}
	if s := of(two); s.Current != old.ID || len(s.All) != 3 || s.All[0].ExpiredTS != 0 || s.All[1].KeyID != older.ID || s.All[1].ExpiredTS == 0 {
		t.Errorf("after the import: %+v", s)
	}
	if _, _, err := a.RotateKey(t.Context(), "other.example"); !errors.Is(err, servers.ErrNotLocal) {
		t.Errorf("rotation of a name that is not ours: %v", err)
	}
	for _, file := range []string{"nonsense", "# nothing\n"} {
		if _, _, err := a.ImportKeys(t.Context(), one, file); err == nil {
			t.Errorf("imported %q", file)
		}
	}
}

func newKey(t *testing.T) *signing.Key {
	t.Helper()
	key, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}
