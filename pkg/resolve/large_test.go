package resolve_test

import (
	"context"
	"fmt"
	"math/rand/v2"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// large is a room as large public ones are: members of many servers, of whom some were invited, some have changed their
// profile, some have left and come back; with changes of power levels, join rules and server ACLs in between. It is the
// source of its events, numeric id n being events[n-1].
type large struct {
	rules   *roomversion.Rules
	room    id.Room
	g       *authgraph.Graph
	events  []*event.PDU
	byID    map[id.Event]*event.PDU
	nids    map[id.Event]int64
	now     state.Map
	rng     *rand.Rand
	members []id.User
	n       int // numbers users
	newOnly bool
}

const owner = id.User("@owner:srv0.example.org")

// mods share the work of the owner, so that auth chains meet several senders.
var mods = []id.User{"@mod1:srv1.example.org", "@mod2:srv2.example.org", "@mod3:srv0.example.org"}

// newLarge makes a room of n state entries, in which the power levels have changed a number of times.
func newLarge(version string, n, levels int) *large {
	rules, _ := roomversion.Get(version)
	r := &large{
		rules: rules, room: "!large:srv0.example.org", g: authgraph.New(), rng: rand.New(rand.NewPCG(uint64(n), 1)),
		byID: make(map[id.Event]*event.PDU), nids: make(map[id.Event]int64),
	}
	send := func(sender id.User, typ, key, content string) { r.now = r.send(r.now, sender, typ, key, content) }
	send(owner, "m.room.create", "", fmt.Sprintf(`{"room_version":%q,"creator":%q}`, version, owner))
	send(owner, "m.room.member", string(owner), `{"membership":"join"}`)
	send(owner, "m.room.power_levels", "", r.levels())
	send(owner, "m.room.join_rules", "", `{"join_rule":"public"}`)
	for _, m := range mods {
		send(m, "m.room.member", string(m), `{"membership":"join"}`)
	}
	send(owner, "m.room.topic", "", `{"topic":"t"}`)
	send(owner, "m.room.server_acl", "", `{"allow":["*"]}`)
	for i, done := r.now.Len(), 0; i < n; i++ {
		for ; done < i*levels/n; done++ {
			send(r.mod(), "m.room.power_levels", "", r.levels())
		}
		if i%max(2*n/levels, 1) == 0 {
			send(r.mod(), "m.room.join_rules", "", `{"join_rule":"public"}`)
		}
		if i%500 == 0 {
			send(r.mod(), "m.room.server_acl", "", `{"allow":["*"]}`)
		}
		r.now = r.join(r.now, r.newUser(n))
	}
	return r
}

func (r *large) mod() id.User { return append(mods, owner)[r.rng.IntN(len(mods)+1)] }

// levels is a power levels event in which something is new.
func (r *large) levels() string {
	first := fmt.Sprintf(`%q:100,`, owner)
	if r.rules.PrivilegedCreators {
		first = ""
	}
	return fmt.Sprintf(`{"users":{%s%q:90,%q:90,%q:90},"events":{"org.example.%d":50}}`, first, mods[0], mods[1], mods[2], len(r.events))
}

func (r *large) newUser(n int) id.User {
	r.n++
	return id.User(fmt.Sprintf("@user%d:srv%d.example.org", r.n, r.rng.IntN(1+n/35)))
}

// join is the entry of a member, with what happened to them since.
func (r *large) join(now state.Map, u id.User) state.Map {
	r.members = append(r.members, u)
	if r.rng.IntN(10) == 0 {
		by := r.mod()
		if r.rng.IntN(2) == 0 {
			by = r.members[r.rng.IntN(len(r.members))]
		}
		now = r.send(now, by, "m.room.member", string(u), `{"membership":"invite"}`)
	}
	now = r.send(now, u, "m.room.member", string(u), `{"membership":"join"}`)
	for r.rng.IntN(4) == 0 {
		now = r.profile(now, u)
	}
	if r.rng.IntN(20) == 0 {
		now = r.send(now, u, "m.room.member", string(u), `{"membership":"leave"}`)
		now = r.profile(now, u)
	}
	return now
}

func (r *large) profile(now state.Map, u id.User) state.Map {
	return r.send(now, u, "m.room.member", string(u), fmt.Sprintf(`{"membership":"join","displayname":"n%d"}`, len(r.events)))
}

// send adds a state event upon a state and returns the state after it.
func (r *large) send(now state.Map, sender id.User, typ, key, content string) state.Map {
	n := len(r.events)
	ev := &event.PDU{
		ID: id.Event(fmt.Sprintf("$%08x", uint32(n)*2654435761)), RoomID: r.room, Rules: r.rules, Type: typ, StateKey: &key,
		Sender: sender, Content: []byte(content), JSON: []byte(`{}`), OriginServerTS: int64(n), Depth: int64(n + 1),
	}
	if n == 0 && r.rules.RoomIDIsCreateHash {
		r.room = id.Room("!" + string(ev.ID[1:]))
		ev.RoomID = r.room
	}
	if n > 0 {
		ev.PrevEvents = []id.Event{r.events[n-1].ID}
	}
	node := authgraph.Node{NID: int64(n + 1), Key: state.Key{Type: typ, StateKey: key}}
	for _, k := range auth.NeededBy(ev) {
		if nid, ok := now.Get(state.Key(k)); ok {
			node.Auth = append(node.Auth, nid)
			ev.AuthEvents = append(ev.AuthEvents, r.events[nid-1].ID)
		}
	}
	if err := r.g.Add(node); err != nil {
		panic(err)
	}
	r.events = append(r.events, ev)
	r.byID[ev.ID] = ev
	r.nids[ev.ID] = node.NID
	return now.Set(node.Key, node.NID)
}

// forks are k states after the current one which differ in c keys: power levels, topic, a ban, and members who joined or
// changed their profiles. Half of the keys were changed on two branches; the others on one, so that the event from before,
// which may be old, is in conflict, too: unless newOnly is set.
func (r *large) forks(k, c int) []state.Map {
	maps := make([]state.Map, k)
	for i := range maps {
		maps[i] = r.now
	}
	on := func(i int, change func(state.Map) state.Map) {
		for _, b := range []int{i % k, (i + 1) % k} {
			maps[b] = change(maps[b])
		}
	}
	for i := range c {
		switch i {
		case 0:
			on(i, func(m state.Map) state.Map { return r.send(m, owner, "m.room.topic", "", `{"topic":"x"}`) })
		case 1:
			u := r.newUser(len(r.members))
			maps[0] = r.send(maps[0], u, "m.room.member", string(u), `{"membership":"join"}`)
		case 2:
			on(i, func(m state.Map) state.Map { return r.send(m, r.mod(), "m.room.power_levels", "", r.levels()) })
		case 3:
			u := r.members[r.rng.IntN(len(r.members))]
			maps[0] = r.send(maps[0], r.mod(), "m.room.member", string(u), `{"membership":"ban"}`)
			maps[1] = r.profile(maps[1], u)
		default:
			u := r.members[r.rng.IntN(len(r.members))]
			if i%2 == 0 || r.newOnly {
				on(i/2, func(m state.Map) state.Map { return r.profile(m, u) })
			} else {
				maps[i/2%k] = r.profile(maps[i/2%k], u)
			}
		}
	}
	for _, m := range maps {
		m.ID()
	}
	return maps
}

// Events implements resolve.Source.
func (r *large) Events(_ context.Context, nids []int64) ([]resolve.Event, error) {
	events := make([]resolve.Event, len(nids))
	for i, nid := range nids {
		events[i].PDU = r.events[nid-1]
	}
	return events, nil
}

// Event implements stateres.Source.
func (r *large) Event(e id.Event) (*event.PDU, error) { return r.byID[e], nil }

// Rejected implements stateres.Source.
func (r *large) Rejected(id.Event) bool { return false }

func (r *large) sets(maps []state.Map) []stateres.Set {
	sets := make([]stateres.Set, len(maps))
	for i, m := range maps {
		sets[i] = make(stateres.Set, m.Len())
		for k, nid := range m.All() {
			sets[i][event.Tuple(k)] = r.events[nid-1].ID
		}
	}
	return sets
}
