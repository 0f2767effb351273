package roomgen

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
)

// Rand chooses: IntN returns a number in [0, n). *rand.Rand of math/rand/v2 is
// one.
type Rand interface{ IntN(n int) int }

// Config shapes a random room. Zero fields take the defaults.
type Config struct {
	Version  string // room version, default 12
	Users    int    // default 5; the first one creates the room
	Servers  int    // default 3
	Events   int    // events after the room's start, default 40
	MaxForks int    // extremities at a time, default 3
}

func (c Config) withDefaults() Config {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Version == "" {
		c.Version = "12"
	}
	set(&c.Users, 5)
	set(&c.Servers, 3)
	set(&c.Events, 40)
	set(&c.MaxForks, 3)
	return c
}

// Generator grows a random room.
type Generator struct {
	*Room
	// Users are all who may act; the first is the creator.
	Users []id.User

	rand Rand
	cfg  Config
	n    int // numbers contents, so that events differ
}

// Random makes a random room: joins, leaves, invites, knocks, restricted joins,
// kicks, bans, unbans, changes of power levels and join rules, other state and
// messages, on forks that are merged now and then.
func Random(rand Rand, cfg Config) (*Generator, error) {
	g, err := Start(rand, cfg)
	if err != nil {
		return nil, err
	}
	for range g.cfg.Events {
		if _, err := g.Step(); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Start makes the beginning of a random room: creation, the creator's join,
// power levels, join rules.
func Start(rand Rand, cfg Config) (*Generator, error) {
	g := &Generator{rand: rand, cfg: cfg.withDefaults()}
	for i := range g.cfg.Users {
		server := id.Server(fmt.Sprintf("s%d.example.org", i%g.cfg.Servers))
		g.Users = append(g.Users, id.NewUser(fmt.Sprintf("u%d", i), server))
	}
	creator := g.Users[0]
	content := Content{}
	if len(g.Users) > 2 && rand.IntN(2) == 0 {
		content["additional_creators"] = []id.User{g.Users[1]}
	}
	var err error
	if g.Room, err = New(g.cfg.Version, creator, content); err != nil {
		return nil, err
	}
	levels := Content{}
	if !g.Rules.PrivilegedCreators {
		levels[string(creator)] = 100
	}
	for _, s := range []struct {
		typ, key string
		content  Content
	}{
		{"m.room.member", string(creator), Content{"membership": "join"}},
		{"m.room.power_levels", "", Content{"users": levels}},
		{"m.room.join_rules", "", g.joinRule()},
	} {
		if _, err := g.Send(creator, s.typ, Key(s.key), s.content); err != nil {
			return nil, fmt.Errorf("start of a room of version %s: %w", g.cfg.Version, err)
		}
	}
	return g, nil
}

// attempts is how often a step tries something that the rules refuse before it
// falls back on what they allow.
const attempts = 12

// Step adds one event and returns it.
func (g *Generator) Step() (*event.PDU, error) {
	g.Now += int64(g.rand.IntN(5)) - 2 // clocks disagree
	prev := g.choosePrev()
	before, err := g.Before(prev...)
	if err != nil {
		return nil, err
	}
	for range attempts {
		a := g.action(before)
		ev, err := g.SendIn(before, a.sender, a.typ, a.stateKey, a.content, prev...)
		if refused := (*auth.Error)(nil); errors.As(err, &refused) {
			continue
		}
		return ev, err
	}
	return g.fallback(before, prev)
}

// Propose builds an event that somebody might try to send after an arbitrary
// event, and returns it with the state there. It is not checked and not added:
// about half of the proposals are not authorised.
func (g *Generator) Propose() (*event.PDU, stateres.Set, error) {
	prev := g.anyEvent().ID
	before := g.After[prev]
	a := g.action(before)
	ev, err := g.build(before, a.sender, a.typ, a.stateKey, a.content, []id.Event{prev})
	return ev, before, err
}

// fallback is the first of a few dull events that is allowed: in every state
// somebody may at least repeat or change a membership.
func (g *Generator) fallback(before stateres.Set, prev []id.Event) (*event.PDU, error) {
	var last error
	for _, u := range g.Users {
		for _, a := range []action{
			{u, "m.room.message", nil, g.text()},
			{u, "m.room.member", Key(string(u)), Content{"membership": "join", "displayname": g.name()}},
			{u, "m.room.member", Key(string(u)), Content{"membership": "leave"}},
		} {
			ev, err := g.SendIn(before, a.sender, a.typ, a.stateKey, a.content, prev...)
			if err == nil {
				return ev, nil
			}
			last = err
		}
	}
	return g.elsewhere(last)
}

// elsewhere forks off the last event at which the creator was joined, where a
// message is allowed: the branch that was tried has nobody left.
func (g *Generator) elsewhere(cause error) (*event.PDU, error) {
	for _, ev := range slices.Backward(g.Events) {
		for _, u := range g.Users {
			sent, err := g.Send(u, "m.room.member", Key(string(u)), Content{"membership": "join", "displayname": g.name()}, ev.ID)
			if err == nil {
				return sent, nil
			}
		}
	}
	return nil, fmt.Errorf("nothing is allowed anywhere: %w", cause)
}

// choosePrev mostly continues a branch, sometimes forks off an older event, and
// sometimes merges.
func (g *Generator) choosePrev() []id.Event {
	roll := g.rand.IntN(10)
	switch {
	case roll < 3 && len(g.extremities) < g.cfg.MaxForks:
		back := g.rand.IntN(min(len(g.Events), 12))
		return []id.Event{g.Events[len(g.Events)-1-back].ID}
	case roll < 5 && len(g.extremities) > 1:
		return g.Extremities()
	}
	return []id.Event{g.extremities[g.rand.IntN(len(g.extremities))]}
}

// MixedStates returns n states after arbitrary events, in which some keys are
// taken from other points of the history: what a server may be told by
// another one that is confused. It is where v2 and v2.1 differ.
func (g *Generator) MixedStates(n int) []stateres.Set {
	sets := make([]stateres.Set, n)
	for i := range sets {
		sets[i] = maps.Clone(g.After[g.anyEvent().ID])
		other := g.After[g.anyEvent().ID]
		for _, k := range sortedKeys(other) {
			if k.Type != "m.room.create" && g.rand.IntN(4) == 0 {
				sets[i][k] = other[k]
			}
		}
	}
	return sets
}

// Branches returns the states after n arbitrary events.
func (g *Generator) Branches(n int) []stateres.Set {
	sets := make([]stateres.Set, n)
	for i := range sets {
		sets[i] = g.After[g.anyEvent().ID]
	}
	return sets
}

func (g *Generator) anyEvent() *event.PDU { return g.Events[g.rand.IntN(len(g.Events))] }

func sortedKeys(s stateres.Set) []event.Tuple {
	return slices.SortedFunc(maps.Keys(s), func(a, b event.Tuple) int {
		if a.Type != b.Type {
			if a.Type < b.Type {
				return -1
			}
			return 1
		}
		switch {
		case a.StateKey < b.StateKey:
			return -1
		case a.StateKey > b.StateKey:
			return 1
		}
		return 0
	})
}
