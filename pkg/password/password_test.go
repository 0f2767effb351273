package password

import (
	"context"
	"errors"
	"strings"
	"testing"
)

var cheap = Config{MemoryKiB: 64, Iterations: 1, Threads: 1, Parallel: 1}

func TestHashAndCheck(t *testing.T) {
	h := New(cheap)
	ctx := t.Context()
	hash, err := h.Hash(ctx, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"correct horse": true, "correct": false, "": false} {
		if ok, err := h.Check(ctx, password, hash); err != nil || ok != want {
			t.Errorf("Check(%q) = %v, %v", password, ok, err)
		}
	}
	if again, err := h.Hash(ctx, "correct horse"); err != nil || again == hash {
		t.Errorf("two hashes of one password are the same (%v)", err)
	}
	if ok, err := h.Check(ctx, "x", ""); ok || err != nil {
		t.Errorf("Check without hash = %v, %v", ok, err)
	}
	if h.NeedsRehash(hash) {
		t.Error("a fresh hash needs rehashing")
	}
	dearer := cheap
	dearer.Iterations = 2
	if h2 := New(dearer); !h2.NeedsRehash(hash) {
		t.Error("a hash of another cost needs no rehashing")
	} else if ok, err := h2.Check(ctx, "correct horse", hash); !ok || err != nil {
		t.Errorf("a hash of another cost: %v, %v", ok, err)
	}
}

// The example of the reference implementation (P-H-C/phc-winner-argon2, test.c).
func TestKnownHash(t *testing.T) {
	const known = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	if ok, err := New(cheap).Check(t.Context(), "password", known); err != nil || !ok {
		t.Errorf("Check = %v, %v", ok, err)
	}
}

func TestBounds(t *testing.T) {
	h := New(cheap)
	if _, err := h.Hash(t.Context(), strings.Repeat("x", MaxLen+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("err = %v", err)
	}
	for _, hash := range []string{
		"x", "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA",
		"$argon2id$v=19$m=99999999,t=1,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA",
		"$argon2id$v=19$m=64,t=0,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA",
		"$argon2id$v=19$m=64,t=1,p=1$!$c29tZXNhbHRzb21lc2FsdA",
		"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$eA",
	} {
		if _, err := h.Check(t.Context(), "x", hash); !errors.Is(err, ErrMalformed) {
			t.Errorf("Check(%q): %v", hash, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.busy.Acquire(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hash(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a free place: %v", err)
	}
}

func TestValidate(t *testing.T) {
	def := Defaults()
	if err := def.Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{}, {MemoryKiB: 7, Iterations: 1, Threads: 1}, {MemoryKiB: 64, Iterations: 1, Threads: 99}} {
		if c.Validate() == nil {
			t.Errorf("%+v is valid", c)
		}
	}
}
