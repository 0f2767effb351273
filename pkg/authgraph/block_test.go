package authgraph_test

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/authgraph"
	"hanse/pkg/state"
)

// same fails unless two graphs say the same of the first n events.
func same(t rapid.TB, got, want *authgraph.Graph, n int) {
	t.Helper()
	if got.Len() != n {
		t.Fatalf("%d events, want %d", got.Len(), n)
	}
	for i := range authgraph.Index(n) {
		if got.NID(i) != want.NID(i) || got.Key(i) != want.Key(i) || got.KeyIndex(i) != want.KeyIndex(i) ||
			!slices.Equal(got.Auth(i), want.Auth(i)) || got.Levels(i) != want.Levels(i) {
			t.Fatalf("event %d: %d %v %v, want %d %v %v", i, got.NID(i), got.Key(i), got.Auth(i), want.NID(i), want.Key(i), want.Auth(i))
		}
		var citers []authgraph.Index
		for c := range want.CitedBy(i) {
			if int(c) < n {
				citers = append(citers, c)
			}
		}
		if !slices.Equal(slices.Collect(got.CitedBy(i)), citers) {
			t.Fatalf("event %d is cited by %v, want %v", i, slices.Collect(got.CitedBy(i)), citers)
		}
	}
}

// Blocks hold what the graph does, and a graph that was read from blocks makes the same blocks.
func TestBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := build(t, drawNodes(t))
		size := rapid.IntRange(1, 20).Draw(t, "block")
		blocks := g.Encode(size)
		back, err := authgraph.Decode(blocks, size)
		if err != nil {
			t.Fatal(err)
		}
		same(t, back, g, len(blocks)*size)
		if !slices.EqualFunc(back.Encode(size), blocks, slices.Equal) {
			t.Fatal("the same graph is another block")
		}
	})
}

// TestStoredFormIsStable pins the format: blocks of an older release must be read for ever.
func TestStoredFormIsStable(t *testing.T) {
	g := build(t, []authgraph.Node{
		{NID: 10, Key: state.Key{Type: "m.room.create"}},
		{NID: 12, Key: state.Key{Type: "m.room.member", StateKey: "@a:x"}, Auth: []int64{10}},
		{NID: 15, Key: state.Key{Type: "m.room.member", StateKey: "@ab:x"}, Auth: []int64{10, 12}},
		{NID: 16, Key: state.Key{Type: "m.room.member", StateKey: "@a:x"}, Auth: []int64{10, 15}},
	})
	want := "\x00\x04" + "\x0a\x02\x03\x01" + "\x00\x00\x00\x02" +
		"\x0em.room.create\x00\x00" + "\x0em.room.member\x00\x04@a:x" + "\x00\x02\x03b:x" +
		"\x00\x01\x02\x02" + "\x00" + "\x00\x02" + "\x00\x02"
	if got := string(g.Encode(4)[0]); got != want {
		t.Fatalf("%q; want %q", got, want)
	}
}

// What cannot have been written is refused.
func TestCorruptBlocks(t *testing.T) {
	for name, b := range map[string]string{
		"empty":                 "",
		"of another size":       "\x00\x02\x01\x01\x00\x00\x02a\x00\x00\x00\x01b\x00\x00",
		"the same numeric id":   "\x00\x01\x00\x00\x02a\x00\x00\x00",
		"a key that is to come": "\x00\x01\x01\x02\x00",
		"cites itself":          "\x00\x01\x01\x00\x02a\x00\x00\x01\x00",
		"cites below the first": "\x00\x01\x01\x00\x02a\x00\x00\x01\x01",
		"more than it needs":    "\x00\x01\x01\x00\x02a\x00\x00\x00\x00",
		"less than it needs":    "\x00\x01\x01\x00\x02a",
		"prefix of nothing":     "\x00\x01\x01\x00\x02a\x05\x00\x00",
	} {
		if _, err := authgraph.Decode([][]byte{[]byte(b)}, 1); !errors.Is(err, authgraph.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string]string{
		"the same key twice":    "\x00\x02\x01\x01\x00\x00\x02a\x00\x00\x00\x00\x00\x00\x00",
		"cites one event twice": "\x00\x02\x01\x01\x00\x00\x02a\x00\x00\x00\x00\x01b\x00\x02\x00\x00",
	} {
		if _, err := authgraph.Decode([][]byte{[]byte(b)}, 2); !errors.Is(err, authgraph.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzBlock(f *testing.F) {
	key := func(s string) state.Key { return state.Key{Type: "m.room.member", StateKey: s} }
	g := build(f, []authgraph.Node{{NID: 1, Key: levelsKey}, {NID: 2, Key: key("@a:x"), Auth: []int64{1}}, {NID: 9, Key: key("@ab:x"), Auth: []int64{1, 2}},
		{NID: 10, Key: levelsKey, Auth: []int64{1, 9}}})
	for _, b := range g.Encode(2) {
		f.Add(b)
	}
	f.Add([]byte("\x00\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x01\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := authgraph.Decode([][]byte{b}, 2)
		if err != nil {
			if !errors.Is(err, authgraph.ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		back, err := authgraph.Decode(g.Encode(2), 2)
		if err != nil {
			t.Fatal(err)
		}
		same(t, back, g, 2)
	})
}

// An auth chain is what a walk by the definition finds, in the order of the distance (server-server API, "Definitions").
func TestChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		g := build(t, nodes)
		of := rapid.SliceOfN(rapid.IntRange(0, len(nodes)-1), 1, 5).Draw(t, "of")
		distance := make(map[authgraph.Index]int)
		var indexes []authgraph.Index
		next := make(map[authgraph.Index]bool)
		for _, i := range of {
			indexes = append(indexes, authgraph.Index(i))
			for _, a := range g.Auth(authgraph.Index(i)) {
				next[a] = true
			}
		}
		for d := 1; len(next) > 0; d++ {
			deeper := make(map[authgraph.Index]bool)
			for i := range next {
				if distance[i] == 0 {
					distance[i] = d
					for _, a := range g.Auth(i) {
						deeper[a] = true
					}
				}
			}
			next = deeper
		}
		chain, err := g.Chain(indexes, len(distance))
		if err != nil || len(chain) != len(distance) {
			t.Fatalf("%d events of the chain, want %d: %v", len(chain), len(distance), err)
		}
		seen := make(map[authgraph.Index]bool)
		for n, i := range chain {
			if distance[i] == 0 || seen[i] || n > 0 && distance[i] < distance[chain[n-1]] {
				t.Fatalf("chain %v, distances %v", chain, distance)
			}
			seen[i] = true
		}
		if len(chain) > 0 {
			if _, err := g.Chain(indexes, len(chain)-1); !errors.Is(err, authgraph.ErrTooMany) {
				t.Fatalf("a chain beyond the bound: %v", err)
			}
		}
		with, err := g.Closure(indexes, g.Len())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range indexes {
			if seen[i] {
				continue
			}
			seen[i] = true
		}
		if len(with) != len(seen) {
			t.Fatalf("closure %v, want the events and their chain %v", with, chain)
		}
	})
}
