package sliding

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/merr"
	"hanse/pkg/state"
)

func genChanges(t *rapid.T) *Changes {
	c := new(Changes)
	if rapid.Bool().Draw(t, "head") {
		c.Head = &Head{Shape: rapid.Uint32().Draw(t, "shape")}
		for range rapid.IntRange(0, 5).Draw(t, "configs") {
			hashes := rapid.SliceOfN(rapid.Uint32(), 0, 8).Draw(t, "state")
			c.Head.Configs = append(c.Head.Configs, Config{Limit: rapid.IntRange(0, 100).Draw(t, "limit"), State: byHash(hashes)})
		}
	}
	for range rapid.IntRange(0, 40).Draw(t, "rooms") {
		k := KeyOf(rapid.Uint32Range(0, 4).Draw(t, "part"), rapid.Int64Range(1, 60).Draw(t, "nid"))
		if rapid.IntRange(0, 4).Draw(t, "forget") == 0 {
			c.Forget(k)
			continue
		}
		told := Told{Live: rapid.Bool().Draw(t, "live"), Config: uint16(rapid.IntRange(0, configsMax-1).Draw(t, "config"))}
		if !told.Live {
			told.Pos = rapid.Int64Range(0, 1<<50).Draw(t, "pos")
		}
		c.Set(k, told)
	}
	return c
}

// What is written comes back, and changes after changes are the same as both at once.
func TestChangesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genChanges(t), genChanges(t)
		a.Head = &Head{Shape: 1}
		s := (&State{}).With(a)
		model := make(map[Key]Told)
		for _, c := range []*Changes{a, b} {
			for _, r := range c.rooms {
				if told, ok := r.told(); ok {
					model[r.key] = told
				} else {
					delete(model, r.key)
				}
			}
		}
		read := func(b []byte) *Changes {
			c, err := DecodeChanges(b)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		again, err := DecodeState(s.Encode())
		if err != nil {
			t.Fatal(err)
		}
		for name, end := range map[string]*State{
			"one after the other": s.With(b), "written": again.With(read(b.Encode())), "at once": (&State{}).With(read(a.And(b).Encode())),
		} {
			if end.Len() != len(model) {
				t.Fatalf("%s: %d rooms, not %d", name, end.Len(), len(model))
			}
			for k, want := range model {
				if got, ok := end.Told(k); !ok || got != want {
					t.Fatalf("%s: %d is %+v, %t, not %+v", name, k, got, ok, want)
				}
			}
		}
	})
}

// A connection goes on from either of its two positions, and from no other, also when it is read from its row.
func TestConnection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		conn, stored := Begin(7, &Changes{Head: &Head{}})
		acked, latest := map[Key]Told{}, map[Key]Told(nil)
		for range rapid.IntRange(1, 30).Draw(t, "requests") {
			if rapid.Bool().Draw(t, "another worker") {
				var err error
				if conn, err = Open(stored); err != nil {
					t.Fatal(err)
				}
			}
			n := conn.N
			if latest != nil && rapid.Bool().Draw(t, "the answer arrived") {
				n, acked = conn.NextN, latest
			}
			if conn.At(conn.NextN+1) != nil || conn.At(conn.N-1) != nil {
				t.Fatal("a position that it does not have")
			}
			at := conn.At(n)
			if at.State.Len() != len(acked) {
				t.Fatalf("%d rooms, not %d", at.State.Len(), len(acked))
			}
			for k, want := range acked {
				if got, ok := at.State.Told(k); !ok || got != want {
					t.Fatalf("%d is %+v, %t, not %+v", k, got, ok, want)
				}
			}
			c := genChanges(t)
			latest = maps.Clone(acked)
			for _, r := range c.rooms {
				if told, ok := r.told(); ok {
					latest[r.key] = told
				} else {
					delete(latest, r.key)
				}
			}
			after, row := at.Answered(c)
			if row.Base == nil {
				row.Base = stored.Base
			}
			conn, stored = after, row
		}
	})
}

// A connection takes at most 24 bytes a room and 1 KiB, stored and in memory.
func TestConnectionIsSmall(t *testing.T) {
	for _, rooms := range []int{0, 100, 5000} {
		c := &Changes{Head: &Head{}}
		for i := range rooms {
			told := Told{Live: i%3 > 0, Pos: 1_000_000_000 + int64(i)}
			c.Set(KeyOf(uint32(i%64), 50_000_000+int64(i)), told)
		}
		head := Head{}
		for n := range 300 { // a client that asks for something else of each room
			w := Required{}
			for i := range 30 {
				w.Include = append(w.Include, element{Type: fmt.Sprint(n, " ", i)})
			}
			w.index()
			_, next := head.ConfigNumber(Config{Limit: n % 100, State: w.hashes}, func(uint16) bool { return true })
			if next != nil {
				head = *next
			}
		}
		c.Head = &head
		conn, row := Begin(1, c)
		if most := 24*rooms + 1024; len(row.Base) > most || conn.Size() > most+2048 {
			t.Errorf("%d rooms: %d bytes stored, %d in memory", rooms, len(row.Base), conn.Size())
		}
	}
}

func FuzzDecodeChanges(f *testing.F) {
	c := &Changes{Head: &Head{Shape: 3, Configs: []Config{{Limit: 20, State: []uint32{1, 2}}}}}
	c.Set(KeyOf(3, 9), Told{Live: true})
	c.Set(KeyOf(4, 1), Told{Pos: 77})
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeChanges(b)
		if err != nil {
			return
		}
		if again, err := DecodeChanges(c.Encode()); err != nil || !slices.Equal(again.rooms, c.rooms) {
			t.Fatalf("%v came back as %v, %v", c.rooms, again, err)
		}
	})
}

// MSC4186, "Changing room configs": more of the timeline or of the state is told again, less is not.
func TestCovers(t *testing.T) {
	want := func(limit int, entries ...string) *seenConfig {
		w := Required{}
		for _, e := range entries {
			w.Include = append(w.Include, element{Type: e})
		}
		w.index()
		return &seenConfig{Config{Limit: limit, State: w.hashes}}
	}
	some, more, other := want(1, "a", "b"), want(1, "a", "b", "c"), want(1, "d")
	if !more.Covers(&some.Config) || some.Covers(&more.Config) || other.Covers(&some.Config) || !some.Covers(&some.Config) {
		t.Error("covers")
	}
	var many []string
	for i := range stateMax + 5 {
		many = append(many, fmt.Sprint(i))
	}
	long, longer := want(1, many...), want(1, append(many, "x")...)
	head := Head{}
	n, next := head.ConfigNumber(long.Config, func(uint16) bool { return false })
	if told := next.Configs[n]; len(told.State) != 1 || !told.Covers(&long.Config) || told.Covers(&longer.Config) {
		t.Errorf("a long one: %v", told)
	}
}

type seenConfig struct{ Config }

// MSC3575 and MSC4186, required_state.
func TestRequiredState(t *testing.T) {
	m := state.Map{}
	for i, k := range []state.Key{
		{Type: "m.room.create"}, {Type: "m.room.name"}, {Type: "m.room.member", StateKey: "@me:x"}, {Type: "m.room.member", StateKey: "@a:x"},
		{Type: "m.space.child", StateKey: "!a:x"}, {Type: "m.space.child", StateKey: "!b:x"},
	} {
		m = m.Set(k, int64(i+1))
	}
	for _, test := range []struct {
		stable bool
		text   string
		want   []int64
		lazy   bool
	}{
		{false, `[["m.room.name",""],["m.room.member","$ME"],["m.space.child","*"]]`, []int64{2, 3, 5, 6}, false},
		{false, `[["*","*"]]`, []int64{1, 2, 3, 4, 5, 6}, false},
		{false, `[["*","*"],["m.room.member","$LAZY"]]`, []int64{1, 2, 5, 6}, true},
		{false, `[["m.room.member","*"],["m.room.member","$LAZY"]]`, []int64{3, 4}, false},
		{false, `[["*",""]]`, []int64{1, 2}, false},
		{true, `{"include":[{}]}`, []int64{1, 2, 3, 4, 5, 6}, false},
		{true, `{"include":[{}],"lazy_members":true}`, []int64{1, 2, 5, 6}, true},
		{true, `{"include":[{},{"type":"m.room.member","state_key":"@a:x"}],"lazy_members":true}`, []int64{1, 2, 4, 5, 6}, true},
		{true, `{"include":[{}],"exclude":[{"type":"m.room.create","state_key":""},{"type":"m.room.member"}]}`, []int64{2, 5, 6}, false},
		{true, `{"include":[{"type":"$ME","state_key":"$ME"}]}`, nil, false},
	} {
		r, err := Parse([]byte(`{"lists":{"a":{"timeline_limit":1,"ranges":[[0,1]],"required_state":`+test.text+`}}}`), test.stable)
		if err != nil {
			t.Fatalf("%s: %v", test.text, err)
		}
		var w Wants
		w.Add(&r.Lists[0].Want, "a")
		got := w.Of(m, "@me:x")
		slices.Sort(got)
		if !slices.Equal(slices.Compact(got), test.want) || w.Lazy() != test.lazy {
			t.Errorf("%s: %v, lazy %t", test.text, got, w.Lazy())
		}
		for k, nid := range m.All() {
			if w.Matches(k, "@me:x") != slices.Contains(test.want, nid) {
				t.Errorf("%s: %v", test.text, k)
			}
		}
	}
}

// Ranges, and scopes of extensions (MSC4186, "Lists"; MSC3575, "Extensions").
func TestRequest(t *testing.T) {
	r, err := Parse([]byte(`{"conn_id":"c","lists":{"b":{"ranges":[[0,1],[5,9]],"timeline_limit":1000},"a":{"ranges":[]}},
		"extensions":{"typing":{"enabled":true,"lists":["b"],"rooms":[]},"receipts":{"enabled":true,"rooms":["*"]},"e2ee":{"enabled":false}}}`), false)
	if err != nil {
		t.Fatal(err)
	}
	l := &r.Lists[1]
	if l.Name != "b" || l.Limit != maxTimeline || !l.Within(1) || l.Within(2) || !l.Within(9) || l.End(7) != 7 || l.End(100) != 10 || r.Lists[0].End(5) != 0 {
		t.Errorf("ranges: %+v", l)
	}
	if !r.Typing.Has([]string{"b"}, false, "!r:x") || r.Typing.Has([]string{"a"}, true, "!r:x") || !r.Receipts.Has(nil, true, "!r:x") || r.E2EE || r.AccountData.Has([]string{"a"}, true, "!r:x") {
		t.Error("scopes")
	}
	again, err := Parse([]byte(`{"lists":{"a":{"ranges":[]},"b":{"ranges":[[0,1],[5,10]]}}}`), false)
	if err != nil || again.Shape() == r.Shape() {
		t.Errorf("another range has the same shape: %v", err)
	}
	for _, bad := range []string{`{"lists":{"a":{"ranges":[[3,2]]}}}`, `{"conn_id":"` + strings.Repeat("x", 300) + `"}`, `{"conn_id":"a\u0000"}`, `{"lists":{"a":{"filters":{"tags":` + long(5000) + `}}}}`} {
		_, err := Parse([]byte(bad), false)
		if e, ok := errors.AsType[*merr.Error](err); !ok || e.Code != merr.CodeInvalidParam {
			t.Errorf("%.50s: %v", bad, err)
		}
	}
}

func long(n int) string {
	b, err := json.Marshal(make([]string, n))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Rooms that have no number, like those of invites from elsewhere, are told apart, and are no others of their partition.
func TestKeyOfID(t *testing.T) {
	a, b := KeyOfID(9, "!a:x"), KeyOfID(9, "!b:x")
	if a == b || a.part() != 9 || b.part() != 9 || a.nid()>>(nidBits-1) != 1 || a != KeyOfID(9, "!a:x") {
		t.Errorf("%x, %x", a, b)
	}
	var c Changes
	c.Set(a, Told{Live: true})
	c.Set(b, Told{Pos: 5, Config: 3})
	if s := new(State).With(&c); s.Len() != 2 {
		t.Errorf("%d rooms", s.Len())
	}
}
