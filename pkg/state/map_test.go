package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// genKey draws keys that meet often: short alphabets, shared prefixes, keys that
// are prefixes of others, zero bytes, bytes that are not UTF-8.
func genKey() *rapid.Generator[Key] {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) Key {
			return Key{"m.room.member", fmt.Sprintf("@u%d:s%d.example", rapid.IntRange(0, 200).Draw(t, "u"), rapid.IntRange(0, 3).Draw(t, "s"))}
		}),
		rapid.Custom(func(t *rapid.T) Key {
			return Key{
				rapid.StringOfN(rapid.RuneFrom([]rune{'a', 'b', 0, 1}), 0, 3, -1).Draw(t, "type"),
				strings.Repeat("a", rapid.IntRange(0, 40).Draw(t, "n")) + rapid.SampledFrom([]string{"", "\x00", "\xff", "b"}).Draw(t, "tail"),
			}
		}),
	)
}

// genKeys draws few keys or enough for several levels of the tree.
func genKeys() *rapid.Generator[[]Key] {
	return rapid.Custom(func(t *rapid.T) []Key {
		n := rapid.SampledFrom([]int{0, 5, 40, 100, 250}).Draw(t, "at least")
		return rapid.SliceOfN(genKey(), n, n+50).Draw(t, "keys")
	})
}

func compareKeys(a, b Key) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.StateKey, b.StateKey)
}

func fromGo(g map[Key]int64) Map { return New(maps.All(g)) }

// checkShape asserts the rules that make the shape a function of the content.
func checkShape(t *rapid.T, nd *node) {
	if nd == nil {
		return
	}
	es := nd.appendTo(nil)
	text := 0
	for i, e := range es {
		text += int(e.len)
		if i > 0 && es[i-1].key() >= e.key() {
			t.Fatalf("keys out of order: %q, %q", es[i-1].key(), e.key())
		}
	}
	if len(es) != nd.n || text != nd.text {
		t.Fatalf("counts %d, %d; want %d, %d", nd.n, nd.text, len(es), text)
	}
	if nd.in == nil {
		if nd.n > pageMax || nd.n == 0 {
			t.Fatalf("page of %d", nd.n)
		}
		return
	}
	if nd.n <= pageMax {
		t.Fatalf("inner node of %d", nd.n)
	}
	if p := commonPrefix(es[0].key(), es[len(es)-1].key()); es[0].key()[:p] != nd.in.prefix {
		t.Fatalf("prefix %q; want %q", nd.in.prefix, es[0].key()[:p])
	}
	checkShape(t, nd.in.end)
	for _, k := range nd.in.kids {
		if k == nil || k.n == 0 {
			t.Fatal("empty child")
		}
		checkShape(t, k)
	}
}

func checkEqual(t *rapid.T, m Map, g map[Key]int64) {
	if m.Len() != len(g) {
		t.Fatalf("Len %d; want %d", m.Len(), len(g))
	}
	want := slices.SortedFunc(maps.Keys(g), compareKeys)
	if newest := slices.Max(append(slices.Collect(maps.Values(g)), 0)); m.Newest() != newest {
		t.Fatalf("Newest %d; want %d", m.Newest(), newest)
	}
	var got []Key
	for k, nid := range m.All() {
		if g[k] != nid {
			t.Fatalf("All: %q = %d; want %d", k, nid, g[k])
		}
		got = append(got, k)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("All: %q; want %q", got, want)
	}
	for k, nid := range g {
		if v, ok := m.Get(k); !ok || v != nid {
			t.Fatalf("Get(%q) = %d, %v; want %d", k, v, ok, nid)
		}
	}
	checkShape(t, m.root)
	if re := fromGo(g); re.ID() != m.ID() || !re.Equal(m) {
		t.Fatalf("ID depends on history: %v, rebuilt %v", m.ID(), re.ID())
	}
}

func TestMapAgainstGoMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := map[Key]int64{}
		var m Map
		type version struct {
			m Map
			g map[Key]int64
		}
		var old []version
		for i := range rapid.SampledFrom([]int{10, 100, 400}).Draw(t, "steps") {
			k := genKey().Draw(t, "key")
			if rapid.IntRange(0, 3).Draw(t, "op") == 0 {
				_, had := g[k]
				n := m.Delete(k)
				if !had && n != m {
					t.Fatal("deleting an absent key made a new map")
				}
				m = n
				delete(g, k)
			} else {
				nid := rapid.Int64Range(1, 3).Draw(t, "nid")
				n := m.Set(k, nid)
				if g[k] == nid && n != m {
					t.Fatal("setting an equal value made a new map")
				}
				m = n
				g[k] = nid
			}
			if v, ok := m.Get(k); v != g[k] || ok != m.Has(k) {
				t.Fatalf("Get after write: %d", v)
			}
			if i%50 == 0 {
				old = append(old, version{m, maps.Clone(g)})
			}
		}
		checkEqual(t, m, g)
		for _, v := range old {
			checkEqual(t, v.m, v.g)
		}
		// Whole ranges go: branches with one child left must close up.
		for _, k := range slices.Collect(maps.Keys(g)) {
			if k.Type != "m.room.member" || len(k.StateKey) < 14 {
				m = m.Delete(k)
				delete(g, k)
			}
		}
		checkEqual(t, m, g)
	})
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfNDistinct(genKey(), 0, 120, rapid.ID).Draw(t, "keys")
		var a, b Map
		for i, k := range keys {
			a = a.Set(k, int64(i+1))
		}
		extra := rapid.SliceOf(genKey()).Draw(t, "extra")
		for _, k := range extra {
			b = b.Set(k, 99)
		}
		for _, i := range rapid.Permutation(seq(len(keys))).Draw(t, "order") {
			b = b.Set(keys[i], int64(i+1))
		}
		for _, k := range extra {
			if !slices.Contains(keys, k) {
				b = b.Delete(k)
			}
		}
		if a.ID() != b.ID() || !a.Equal(b) {
			t.Fatal("same content, different ID")
		}
		if len(keys) > 0 {
			c := b.Set(keys[0], 1000)
			if c.ID() == a.ID() || c.Equal(a) {
				t.Fatal("different content, same ID")
			}
		}
	})
}

func seq(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func TestTypeAndPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfNDistinct(genKey(), 0, 150, rapid.ID).Draw(t, "keys")
		g := map[Key]int64{}
		for i, k := range keys {
			g[k] = int64(i + 1)
		}
		m := fromGo(g)
		q := genKey().Draw(t, "query")
		q.StateKey = q.StateKey[:rapid.IntRange(0, len(q.StateKey)).Draw(t, "cut")]
		check := func(name string, got map[Key]int64, want func(Key) bool) {
			exp := maps.Clone(g)
			maps.DeleteFunc(exp, func(k Key, _ int64) bool { return !want(k) })
			if !maps.Equal(got, exp) {
				t.Fatalf("%s(%q): %v; want %v", name, q, got, exp)
			}
		}
		check("Type", maps.Collect(m.Type(q.Type)), func(k Key) bool { return k.Type == q.Type })
		check("Except", maps.Collect(m.Except(q.Type)), func(k Key) bool { return k.Type != q.Type })
		var order []Key
		for k := range m.Except(q.Type) {
			if order = append(order, k); len(order) == 3 {
				break
			}
		}
		if !slices.IsSortedFunc(order, compareKeys) {
			t.Fatalf("Except(%q) out of order: %q", q.Type, order)
		}
		check("TypePrefix", maps.Collect(m.TypePrefix(q.Type, q.StateKey)), func(k Key) bool {
			return k.Type == q.Type && strings.HasPrefix(k.StateKey, q.StateKey)
		})
	})
}

func TestDiffN(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := map[Key]int64{}
		for _, k := range genKeys().Draw(t, "base") {
			base[k] = 1
		}
		root := fromGo(base)
		k := rapid.IntRange(1, 5).Draw(t, "maps")
		gs, ms := make([]map[Key]int64, k), make([]Map, k)
		for i := range k {
			gs[i], ms[i] = maps.Clone(base), root
			if rapid.Bool().Draw(t, "unshared") {
				ms[i] = fromGo(base)
			}
			for _, key := range rapid.SliceOfN(genKey(), 0, 60).Draw(t, "changes") {
				nid := rapid.Int64Range(0, 2).Draw(t, "nid")
				ms[i] = ms[i].Set(key, nid)
				if gs[i][key] = nid; nid == 0 {
					delete(gs[i], key)
				}
			}
			switch rapid.IntRange(0, 9).Draw(t, "part") {
			case 0:
				gs[i], ms[i] = map[Key]int64{}, Map{}
			case 1, 2: // ranges that others lack
				members := rapid.Bool().Draw(t, "members")
				maps.DeleteFunc(gs[i], func(k Key, _ int64) bool { return (k.Type == "m.room.member") != members })
				ms[i] = fromGo(gs[i])
			}
		}
		want := map[Key][]int64{}
		for _, g := range gs {
			for key := range g {
				vals := make([]int64, k)
				differs := false
				for i := range gs {
					vals[i] = gs[i][key]
					differs = differs || vals[i] != vals[0]
				}
				if differs {
					want[key] = vals
				}
			}
		}
		got := map[Key][]int64{}
		var order []Key
		for key, vals := range DiffN(ms) {
			got[key] = slices.Clone(vals)
			order = append(order, key)
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Fatalf("DiffN: %v; want %v", got, want)
		}
		if !slices.IsSortedFunc(order, compareKeys) || len(order) != len(got) {
			t.Fatalf("DiffN out of order or repeated: %q", order)
		}
		if k > 1 {
			changes := slices.Collect(Diff(ms[0], ms[1]))
			if re := ms[0].Apply(changes); re.ID() != ms[1].ID() {
				t.Fatal("a + Diff(a, b) is not b")
			}
		}
		for range DiffN(ms) {
			break // stopping early must not panic
		}
	})
}

func TestApplyIsSetAndDelete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := map[Key]int64{}
		for _, k := range genKeys().Draw(t, "base") {
			base[k] = 1
		}
		m := fromGo(base)
		keys := genKeys().Draw(t, "keys")
		most := len(keys)
		if rapid.Bool().Draw(t, "delete most") {
			keys = append(keys, slices.SortedFunc(maps.Keys(base), compareKeys)...)
		}
		var changes []Change
		for i, k := range keys {
			c := Change{Key: k, New: rapid.Int64Range(0, 3).Draw(t, "nid")}
			if i >= most {
				c.New = 0
			}
			changes = append(changes, c)
			if base[k] = c.New; c.New == 0 {
				delete(base, k)
			}
		}
		checkEqual(t, m.Apply(changes), base)
	})
}

func TestNestedKeysStayBounded(t *testing.T) {
	// The worst case for height: every key is a prefix of the next. The height is
	// bounded by the length of keys (255 bytes each, Client-Server API "Size limits").
	var m Map
	for i := range 256 {
		m = m.Set(Key{strings.Repeat("t", i), strings.Repeat("k", 255-i)}, int64(i+1))
		m = m.Set(Key{"t", strings.Repeat("k", i)}, int64(i+1))
	}
	if h := height(m.root); h > 512 {
		t.Fatalf("height %d", h)
	}
	if m.Len() != 511 {
		t.Fatalf("Len %d", m.Len())
	}
}

func height(nd *node) int {
	if nd == nil || nd.in == nil {
		return 1
	}
	h := 0
	for _, k := range nd.in.kids {
		h = max(h, height(k))
	}
	return h + 1
}
