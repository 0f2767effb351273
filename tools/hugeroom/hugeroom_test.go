package hugeroom_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/state"
	"hanse/tools/hugeroom"
)

var versions = []string{"10", "11", "12"}

func room(t testing.TB, cfg hugeroom.Config) *hugeroom.Room {
	t.Helper()
	r, err := hugeroom.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The history has as many events of each kind as it was asked for.
func TestCounts(t *testing.T) {
	for _, version := range versions {
		cfg := hugeroom.Config{Version: version, Members: 3000, Left: 30, Servers: 100, ACLs: 71, PowerLevels: 22, JoinRules: 14}
		r := room(t, cfg)
		have, servers := map[string]int{}, map[id.Server]bool{}
		for n := 1; n <= r.Len(); n++ {
			have[r.PDU(n).Type]++
		}
		members := 0
		now := r.After(r.Len())
		for k, n := range now.Type("m.room.member") {
			members++
			servers[id.User(k.StateKey).Server()] = true
			if m := r.PDU(int(n)).Membership(); m != "join" && m != "leave" {
				t.Errorf("%s: %s", k.StateKey, m)
			}
		}
		want := map[string]int{"m.room.create": 1, "m.room.power_levels": 22, "m.room.join_rules": 14, "m.room.server_acl": 71}
		for typ, n := range want {
			if have[typ] != n {
				t.Errorf("version %s: %d events %s, want %d", version, have[typ], typ, n)
			}
		}
		if members != cfg.Members || len(servers) != cfg.Servers {
			t.Errorf("version %s: %d members of %d servers", version, members, len(servers))
		}
		if left := have["m.room.member"] - members; left < members*29/100 || left > members*31/100 {
			t.Errorf("version %s: %d of %d left", version, left, members)
		}
	}
}

// The same configuration makes the same room, another seed another one.
func TestDeterministic(t *testing.T) {
	last := func(seed uint64) id.Event {
		cfg := hugeroom.Scaled(200)
		cfg.Seed = seed
		r := room(t, cfg)
		if _, err := r.Netsplit(r.Len(), 3, 10, 2, hugeroom.Fierce); err != nil {
			t.Fatal(err)
		}
		return r.PDU(r.Len()).ID
	}
	first := last(1)
	if again := last(1); again != first {
		t.Errorf("%s and %s", first, again)
	}
	if first == last(2) {
		t.Error("the same with another seed")
	}
}

// Large states are resolved by package resolve, small ones by the transcription of the specification ("State resolution" of
// the room versions): the rooms are the same to the last event.
func TestResolvedAlike(t *testing.T) {
	last := func(version string, seed uint64, literal int) (id.Event, state.ID) {
		cfg := hugeroom.Scaled(100)
		cfg.Version, cfg.Seed, cfg.Literal = version, seed, literal
		r := room(t, cfg)
		for range 3 {
			if _, err := r.FromCreation(2, 8, hugeroom.Fierce); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Netsplit(r.Ends()[0], 3, 12, 2, hugeroom.Fierce); err != nil {
				t.Fatal(err)
			}
		}
		n, err := r.Heal(r.Ends()...)
		if err != nil {
			t.Fatal(err)
		}
		return r.PDU(n).ID, r.After(n).ID()
	}
	for _, version := range versions {
		for seed := range uint64(8) {
			event, is := last(version, seed, 1)
			if wanted, want := last(version, seed, 0); event != wanted || is != want {
				t.Errorf("version %s, seed %d: %s with state %x, literally %s with state %x", version, seed, event, is, wanted, want)
			}
		}
	}
}

// grown makes a small room with some of each pattern.
func grown(t *rapid.T) *hugeroom.Room {
	cfg := hugeroom.Config{
		Version: rapid.SampledFrom(versions).Draw(t, "version"), Members: rapid.IntRange(9, 60).Draw(t, "members"), Left: rapid.IntRange(0, 60).Draw(t, "left"),
		ACLs: rapid.IntRange(1, 9).Draw(t, "acls"), PowerLevels: rapid.IntRange(1, 9).Draw(t, "levels"), JoinRules: rapid.IntRange(1, 9).Draw(t, "rules"),
		Seed: rapid.Uint64().Draw(t, "seed"),
	}
	cfg.Servers = rapid.IntRange(1, cfg.Members).Draw(t, "servers")
	r, err := hugeroom.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := rapid.IntRange(1, 6).Draw(t, "n")
	mix := rapid.SampledFrom([]hugeroom.Mix{hugeroom.Calm, hugeroom.Fierce}).Draw(t, "mix")
	from := r.Len()
	for range rapid.IntRange(0, 3).Draw(t, "patterns") {
		switch rapid.IntRange(0, 5).Draw(t, "pattern") {
		case 0:
			_, err = r.Forks(from, n, n, mix)
		case 1:
			_, err = r.FromCreation(n, n, mix)
		case 2:
			_, err = r.Netsplit(from, n, n, 2, mix)
		case 3:
			_, err = r.PowerLevelChain(from, n)
		case 4:
			_, err = r.ACLChurn(from, n)
		case 5:
			_, err = r.JoinPart(from, 2, 3*n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Heal(r.Ends()...); err != nil {
		t.Fatal(err)
	}
	return r
}

// Every event is what another server would accept: right form, hash, id and signatures; authorised by its auth events
// and by the state before it, which plain state resolution gives (server-server API, "Checks performed on receipt of a
// PDU").
func TestEveryEventIsAccepted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := grown(t)
		after := make(map[id.Event]stateres.Set)
		for n := 1; n <= r.Len(); n++ {
			ev := accepted(t, r, n)
			var sets []stateres.Set
			for _, p := range ev.PrevEvents {
				sets = append(sets, after[p])
			}
			before, err := stateres.Resolve(r.Rules, sets, r)
			if err != nil {
				t.Fatal(err)
			}
			if err := auth.Check(ev, lookup{r, before}, auth.Options{}); err != nil {
				t.Fatalf("event %d, %s: %v", n, ev.Type, err)
			}
			if before = maps.Clone(before); ev.IsState() {
				before[ev.Tuple()] = ev.ID
			}
			after[ev.ID] = before
			if have := r.Set(r.After(n)); !maps.Equal(have, before) {
				t.Fatalf("state after event %d differs", n)
			}
		}
		if len(r.Ends()) != 1 {
			t.Fatalf("%d ends after all were healed", len(r.Ends()))
		}
	})
}

func accepted(t *rapid.T, r *hugeroom.Room, n int) *event.PDU {
	have := r.PDU(n)
	ev, err := event.Parse(have.JSON, r.Rules)
	if err != nil || ev.ID != have.ID || ev.RoomID != r.ID || ev.ContentRedacted || r.Number(ev.ID) != n {
		t.Fatalf("event %d: %+v, %v", n, ev, err)
	}
	for _, s := range ev.SigningServers() {
		if err := ev.Verify(s, hugeroom.KeyID, hugeroom.ServerKey(s).Public()); err != nil {
			t.Fatalf("event %d: %v", n, err)
		}
	}
	var cited []*event.PDU
	for _, a := range ev.AuthEvents {
		if m := r.Number(a); m == 0 || m >= n {
			t.Fatalf("event %d cites %d", n, m)
		}
		cited = append(cited, r.PDU(r.Number(a)))
	}
	if err := auth.CheckAuthEvents(ev, cited); err != nil {
		t.Fatalf("event %d: %v", n, err)
	}
	if !r.Rules.RoomIDIsCreateHash || ev.Type == "m.room.create" {
		create := auth.Check(ev, auth.Events(cited), auth.Options{})
		if create != nil {
			t.Fatalf("event %d by its auth events: %v", n, create)
		}
	}
	return ev
}

type lookup struct {
	r *hugeroom.Room
	s stateres.Set
}

func (l lookup) StateEvent(typ, key string) *event.PDU {
	n := l.r.Number(l.s[event.Tuple{Type: typ, StateKey: key}])
	if n == 0 {
		return nil
	}
	return l.r.PDU(n)
}

// An auth chain is closed, and has nothing that is not needed.
func TestAuthChain(t *testing.T) {
	r := room(t, hugeroom.Scaled(500))
	state := hugeroom.Numbers(r.After(r.Len()))
	chain := r.AuthChain(state...)
	in := map[int]bool{1: true}
	for _, n := range slices.Concat(state, chain) {
		for _, a := range r.PDU(n).AuthEvents {
			in[r.Number(a)] = true
		}
	}
	if len(in) != len(chain) {
		t.Fatalf("%d events in the chain, %d are cited", len(chain), len(in))
	}
	for _, n := range chain {
		if !in[n] {
			t.Fatalf("event %d is not cited", n)
		}
	}
}

// What is between two events is told oldest first, what is before one newest first.
func TestGaps(t *testing.T) {
	r := room(t, hugeroom.Scaled(50))
	forks, err := r.Forks(r.History(), 2, 5, hugeroom.Calm)
	if err != nil {
		t.Fatal(err)
	}
	end, err := r.Heal(forks[0][4], forks[1][4])
	if err != nil {
		t.Fatal(err)
	}
	between := r.Missing([]id.Event{r.PDU(r.History()).ID}, []id.Event{r.PDU(end).ID}, 100)
	if len(between) != 10 || !slices.IsSortedFunc(r.PDUs(between), func(a, b *event.PDU) int { return int(a.Depth - b.Depth) }) {
		t.Fatalf("between: %v", between)
	}
	if got := r.Missing([]id.Event{r.PDU(r.History()).ID}, []id.Event{r.PDU(end).ID}, 4); len(got) != 4 || got[3] != forks[1][4] {
		t.Fatalf("of many the newest: %v", got)
	}
	if got := r.Backfill([]id.Event{r.PDU(forks[0][1]).ID}, 3); !slices.Equal(got, []int{forks[0][1], forks[0][0], r.History()}) {
		t.Fatalf("backfill: %v", got)
	}
}

func TestConfig(t *testing.T) {
	for _, change := range []func(*hugeroom.Config){
		func(c *hugeroom.Config) { c.Version = "9" }, func(c *hugeroom.Config) { c.Members = 3 },
		func(c *hugeroom.Config) { c.Servers = c.Members + 1 }, func(c *hugeroom.Config) { c.ACLs = 0 },
	} {
		cfg := hugeroom.Scaled(100)
		change(&cfg)
		if _, err := hugeroom.New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
	seen := map[id.Server]bool{}
	name := hugeroom.LoopbackName(8448)
	for i := range 100_000 {
		s := name(i)
		if _, err := id.ParseServer(string(s)); err != nil || seen[s] {
			t.Fatalf("name %d: %s, %v", i, s, err)
		}
		seen[s] = true
	}
}

// The full size, for the record: go test -run Largest -v, with HUGEROOM_FULL set.
func TestLargest(t *testing.T) {
	cfg := hugeroom.Scaled(5000)
	if full() {
		cfg = hugeroom.Largest()
	}
	begin := time.Now()
	r := room(t, cfg)
	bytes := 0
	for n := 1; n <= r.Len(); n++ {
		bytes += len(r.PDU(n).JSON)
	}
	t.Logf("%d events of %d members, %d MB: %s", r.Len(), cfg.Members, bytes>>20, time.Since(begin).Round(time.Millisecond))
	begin = time.Now()
	m := r.After(r.Len())
	t.Logf("state of %d entries: %s", m.Len(), time.Since(begin).Round(time.Millisecond))
	if _, ok := m.Get(state.Key{Type: "m.room.create"}); !ok || m.Len() < cfg.Members {
		t.Errorf("state of %d entries", m.Len())
	}
	if !json.Valid(r.PDU(r.Len()).JSON) {
		t.Error("the last event is not JSON")
	}
}

func full() bool { return os.Getenv("HUGEROOM_FULL") != "" }
