package admission

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func testPool() *Pool {
	return New(Config{Name: "test", Limits: map[string]int64{"all": 100, "address": 40}, Registerer: prometheus.NewRegistry()})
}

func (p *Pool) open(giveUp func(), address string) *Entry {
	return p.Enter(giveUp, Name{Kind: "all"}, Name{"address", address})
}

// Who has let a request stand makes room for one that comes, and nobody else.
func TestStalestMakesRoom(t *testing.T) {
	p := testPool()
	var given []string
	enter := func(name, address string, n int64) *Entry {
		e := p.open(func() { given = append(given, name) }, address)
		if err := e.Take(n); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return e
	}
	other := enter("other", "b", 30)
	first, second := enter("first", "a", 15), enter("second", "a", 15)
	if err := first.Take(1); err != nil { // it has grown after the second
		t.Fatal(err)
	}
	third := enter("third", "a", 20)
	if fmt.Sprint(given) != "[second]" || !second.Evicted() || !errors.Is(second.Take(1), ErrEvicted) || !errors.Is(second.Settle(), ErrEvicted) {
		t.Errorf("made room: %v", given)
	}
	if err := third.Settle(); err != nil {
		t.Fatal(err)
	}
	if err := first.Settle(); err != nil {
		t.Fatal(err)
	}
	if err := p.open(func() {}, "a").Take(5); !errors.Is(err, ErrFull) {
		t.Errorf("nothing is pending, and an account that is full took more: %v", err)
	}
	if p.Held("all") != 66 || p.Held("address") != 66 || other.Evicted() {
		t.Errorf("held: %d and %d", p.Held("all"), p.Held("address"))
	}
	for _, e := range []*Entry{first, second, third, other} {
		e.Release()
		e.Release()
	}
	if p.Held("all") != 0 || p.Held("address") != 0 {
		t.Errorf("left behind: %d and %d", p.Held("all"), p.Held("address"))
	}
}

// What was held by somebody of whom nothing is known is charged to who it has turned out to be.
func TestMove(t *testing.T) {
	p := New(Config{Limits: map[string]int64{"strangers": 10, "known": 12, "server": 8}})
	e := p.Enter(func() { t.Error("made to give up") }, Name{Kind: "strangers"})
	if err := e.Take(6); err != nil {
		t.Fatal(err)
	}
	if err := e.Move(Name{Kind: "known"}, Name{"server", "a"}); err != nil {
		t.Fatal(err)
	}
	if p.Held("strangers") != 0 || p.Held("known") != 6 || p.Held("server") != 6 {
		t.Errorf("held: %v", p.held)
	}
	second := p.Enter(func() {}, Name{Kind: "strangers"})
	if err := second.Take(6); err != nil {
		t.Fatal(err)
	}
	if err := second.Move(Name{Kind: "known"}, Name{"server", "a"}); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	second.Release()
	e.Release()
	if len(p.accounts) != 0 {
		t.Errorf("accounts are left: %v", p.accounts)
	}
}

func TestWait(t *testing.T) {
	p := testPool()
	a := p.open(func() {}, "a")
	if err := errors.Join(a.Take(40), a.Settle()); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	b := p.open(func() {}, "a")
	go func() { got <- b.Wait(t.Context(), 10) }()
	a.Free(20)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.open(func() {}, "a").Wait(ctx, 20); err != nil { // b is pending
		t.Fatal(err)
	}
	if err := p.open(func() {}, "a").Wait(ctx, 21); !errors.Is(err, ErrFull) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Whatever comes together: limits hold, and in the end nothing is left.
func TestConcurrently(t *testing.T) {
	p := testPool()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 2000 {
				gave := make(chan struct{}, 1)
				e := p.open(func() { gave <- struct{}{} }, fmt.Sprint(r.IntN(4)))
				for range r.IntN(4) {
					_ = e.Take(r.Int64N(20))
				}
				switch r.IntN(3) {
				case 0:
					_ = e.Settle()
				case 1:
					_ = e.Move(Name{Kind: "all"})
				}
				if held := p.Held("all"); held > 100 {
					t.Errorf("held %d", held)
				}
				e.Release()
			}
		})
	}
	wg.Wait()
	if len(p.accounts) != 0 || p.Held("all") != 0 || p.Held("address") != 0 {
		t.Errorf("left: %v, %v", p.accounts, p.held)
	}
}
