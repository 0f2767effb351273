package roomdir

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg/pgtest"
)

// Client-server API, "Room aliases": an alias is one room's, whoever is asked.
func TestAliases(t *testing.T) {
	ctx := context.Background()
	d := New(pgtest.NewSharded(t, 2), nil, nil)
	a := Alias{Alias: "#a:x", Room: "!r:x", Creator: "@anna:x"}
	if _, err := d.Alias(ctx, a.Alias); !errors.Is(err, ErrNotFound) {
		t.Fatalf("before: %v", err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			switch err := d.Add(ctx, a); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrTaken):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d created the same alias", won.Load())
	}
	if got, err := d.Alias(ctx, a.Alias); err != nil || got != a {
		t.Errorf("alias: %v %v", got, err)
	}
	b := Alias{Alias: "#b:x", Room: "!r:x", Creator: "@bert:x"}
	if err := d.Add(ctx, b); err != nil {
		t.Fatal(err)
	}
	if got, err := d.AliasesOf(ctx, "!r:x"); err != nil || len(got) != 2 {
		t.Errorf("aliases: %v %v", got, err)
	}
	if err := d.Move(ctx, "!r:x", "!s:x"); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(ctx, b.Alias, "!r:x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted the alias of another room: %v", err)
	}
	if err := d.Delete(ctx, b.Alias, "!s:x"); err != nil {
		t.Error(err)
	}
	if got, err := d.AliasesOf(ctx, "!s:x"); err != nil || !slices.Equal(got, []id.Alias{"#a:x"}) {
		t.Errorf("aliases: %v %v", got, err)
	}
}

// A reserved alias names nothing until it points at a room, and dies with who reserved it.
func TestReservation(t *testing.T) {
	ctx := context.Background()
	shards := pgtest.New(t)
	d := New(shards, nil, nil)
	const alias id.Alias = "#a:x"
	if err := d.Reserve(ctx, alias, "@anna:x"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Alias(ctx, alias); !errors.Is(err, ErrNotFound) {
		t.Errorf("a reservation is an alias: %v", err)
	}
	if err := d.Reserve(ctx, alias, "@bert:x"); !errors.Is(err, ErrTaken) {
		t.Errorf("reserved twice: %v", err)
	}
	if err := d.Release(ctx, alias, "@anna:x"); err != nil {
		t.Fatal(err)
	}
	if err := d.Reserve(ctx, alias, "@bert:x"); err != nil {
		t.Fatal(err)
	}
	part := partition.Of(string(alias))
	if _, err := shards.For(part).Exec(ctx, `UPDATE room_alias SET created_ts = created_ts - $1`, 2*reservation.Milliseconds()); err != nil {
		t.Fatal(err)
	}
	if err := d.Reserve(ctx, alias, "@anna:x"); err != nil {
		t.Errorf("an old reservation holds: %v", err)
	}
	if err := d.Point(ctx, Alias{alias, "!r:x", "@bert:x"}); !errors.Is(err, ErrTaken) {
		t.Errorf("the old one pointed it: %v", err)
	}
	for range 2 { // also when it is repeated
		if err := d.Point(ctx, Alias{alias, "!r:x", "@anna:x"}); err != nil {
			t.Error(err)
		}
	}
	if err := d.Release(ctx, alias, "@anna:x"); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Alias(ctx, alias); err != nil || got.Room != "!r:x" {
		t.Errorf("released an alias in use: %v %v", got, err)
	}
}

// Client-server API, "Ordering of children within a space".
func TestOrdered(t *testing.T) {
	in := []Child{{Room: "!e:x", Sent: 2}, {Room: "!d:x", Sent: 1}, {Room: "!f:x", Sent: 2}, {Room: "!b:x", Order: "b", Sent: 0},
		{Room: "!c:x", Order: "b", Sent: 1}, {Room: "!a:x", Order: "a", Sent: 9}}
	var got []id.Room
	for _, c := range Ordered(in) {
		got = append(got, c.Room)
	}
	if !slices.Equal(got, []id.Room{"!a:x", "!b:x", "!c:x", "!d:x", "!e:x", "!f:x"}) {
		t.Errorf("order: %v", got)
	}
	for s, want := range map[string]bool{"": false, " ~": true, "\x7f": false, "ä": false, string(make([]byte, 51)): false} {
		if ValidOrder(s) != want {
			t.Errorf("order %q", s)
		}
	}
}
