package authgraph_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/authgraph"
	"hanse/pkg/state"
)

var levelsKey = state.Key{Type: "m.room.power_levels"}

// drawNodes makes events of which each cites some of those before it.
func drawNodes(t *rapid.T) []authgraph.Node {
	n := rapid.IntRange(1, 60).Draw(t, "n")
	nodes := make([]authgraph.Node, n)
	nid := int64(0)
	for i := range nodes {
		nid += int64(rapid.IntRange(1, 3).Draw(t, "gap"))
		nodes[i].NID = nid
		nodes[i].Key = rapid.SampledFrom([]state.Key{levelsKey, levelsKey, {Type: "m.room.topic"}, {Type: "m.room.member", StateKey: fmt.Sprint(i % 5)}}).Draw(t, "key")
		for range rapid.IntRange(0, min(i, 4)).Draw(t, "cites") {
			nodes[i].Auth = append(nodes[i].Auth, nodes[rapid.IntRange(0, i-1).Draw(t, "auth")].NID)
		}
	}
	return nodes
}

func build(t rapid.TB, nodes []authgraph.Node) *authgraph.Graph {
	t.Helper()
	g := authgraph.New()
	for _, n := range nodes {
		if err := g.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// The graph says of each event what it was told, and both directions of a citation agree.
func TestGraph(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		g := build(t, nodes)
		citers := make(map[int64][]int64)
		for _, n := range nodes {
			i := g.Find(n.NID)
			if g.NID(i) != n.NID || g.Key(i) != n.Key {
				t.Fatalf("%d is %d %v", n.NID, g.NID(i), g.Key(i))
			}
			var want, got []int64
			for _, a := range n.Auth {
				if !slices.Contains(want, a) {
					want = append(want, a)
					citers[a] = append(citers[a], n.NID)
				}
			}
			for _, a := range g.Auth(i) {
				got = append(got, g.NID(a))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("auth events of %d: %v, want %v", n.NID, got, want)
			}
		}
		for _, n := range nodes {
			var got []int64
			for c := range g.CitedBy(g.Find(n.NID)) {
				got = append(got, g.NID(c))
			}
			var listed []int64
			for c := g.NewestCitation(g.Find(n.NID)); c != 0; {
				var by authgraph.Index
				by, c = g.Citer(c)
				listed = append(listed, g.NID(by))
			}
			if !slices.Equal(listed, got) {
				t.Fatalf("citations of %d: %v and %v", n.NID, listed, got)
			}
			slices.Reverse(got)
			if !slices.Equal(got, citers[n.NID]) {
				t.Fatalf("%d is cited by %v, want %v", n.NID, got, citers[n.NID])
			}
		}
	})
}

// The depth of the common ancestor is that which a walk along the power levels events finds ("mainline of P" and
// "mainline ordering", room version 2).
func TestCommonLevels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		g := build(t, nodes)
		var levels []authgraph.Index
		for _, n := range nodes {
			if n.Key == levelsKey {
				levels = append(levels, g.Find(n.NID))
			}
		}
		chain := func(p authgraph.Index) (up []authgraph.Index) {
			for ; p != authgraph.None; p = g.Levels(p) {
				up = append(up, p)
			}
			return up
		}
		for _, p := range levels {
			main := chain(p)
			for _, q := range levels {
				want := 0
				for _, a := range chain(q) {
					if at := slices.Index(main, a); at >= 0 {
						want = len(main) - at
						break
					}
				}
				if got := g.CommonLevels(p, q); got != want {
					t.Fatalf("common levels of %d and %d: depth %d, want %d", g.NID(p), g.NID(q), got, want)
				}
			}
		}
	})
}

// What would make the order of indexes wrong is refused, and changes nothing.
func TestRefusal(t *testing.T) {
	g := build(t, []authgraph.Node{{NID: 1, Key: levelsKey}, {NID: 5, Key: levelsKey, Auth: []int64{1}}})
	if err := g.Add(authgraph.Node{NID: 3}); !errors.Is(err, authgraph.ErrOrder) {
		t.Errorf("an older event: %v", err)
	}
	if err := g.Add(authgraph.Node{NID: 7, Auth: []int64{1, 6}}); !errors.Is(err, authgraph.ErrUnknown) {
		t.Errorf("an unknown auth event: %v", err)
	}
	if err := g.Add(authgraph.Node{NID: 5}); err != nil {
		t.Errorf("the same event again: %v", err)
	}
	if err := g.Add(authgraph.Node{NID: 8, Auth: []int64{5}}); err != nil || g.Len() != 3 {
		t.Errorf("%d events, %v", g.Len(), err)
	}
	for c := range g.CitedBy(g.Find(1)) {
		if g.NID(c) != 5 {
			t.Errorf("1 is cited by %d", g.NID(c))
		}
	}
}

// A chain as long as a hostile room can make it, a million power levels events: answered, or refused beyond the bound, and
// the depth of its events is known without walking it.
func TestLongChain(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	g := authgraph.New()
	for i := range n {
		node := authgraph.Node{NID: int64(i + 1), Key: levelsKey}
		if i > 0 {
			node.Auth = []int64{int64(i)}
		}
		if err := g.Add(node); err != nil {
			t.Fatal(err)
		}
	}
	last := authgraph.Index(n - 1)
	chain, err := g.Chain([]authgraph.Index{last}, n)
	if err != nil || len(chain) != n-1 || chain[0] != last-1 || chain[n-2] != 0 {
		t.Errorf("a chain of %d, %v", len(chain), err)
	}
	if _, err := g.Chain([]authgraph.Index{last}, n/5); !errors.Is(err, authgraph.ErrTooMany) {
		t.Errorf("beyond the bound: %v", err)
	}
	if d := g.CommonLevels(last, last/2); d != n/2 {
		t.Errorf("depth %d", d)
	}
}
