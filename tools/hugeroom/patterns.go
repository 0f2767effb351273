package hugeroom

import (
	"errors"
	"fmt"
	"strconv"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

// Mix is what happens on a fork.
type Mix int

const (
	// Calm forks conflict in nothing that decides about other events: messages, profiles, topics, new members. Whoever
	// hears of them, in whatever order, accepts all.
	Calm Mix = iota
	// Fierce forks also change power levels, join rules and ACLs, kick and ban. What one side does may void what another
	// does.
	Fierce
)

// attempts is how often something is tried that the rules may refuse.
const attempts = 8

// Forks lets k branches grow from an event, depth events each. They are returned by their numbers, oldest first.
func (r *Room) Forks(from, k, depth int, mix Mix) ([][]int, error) {
	out := make([][]int, k)
	for i := range out {
		grown, err := r.grow([]int{from}, side{i, k}, depth, mix)
		if err != nil {
			return nil, fmt.Errorf("fork %d: %w", i, err)
		}
		out[i] = grown
	}
	return out, nil
}

// FromCreation lets forks grow from the moment when only the creator was there: their events are older in the graph
// than all power levels, join rules and members. Fierce ones may well throw everybody out of the room whose join is
// younger than the last join rule that counts then.
func (r *Room) FromCreation(k, depth int, mix Mix) ([][]int, error) { return r.Forks(2, k, depth, mix) }

// Netsplit lets the room fall into n sides, each of servers of its own, and heal, again and again. The event that heals
// a round names the ends of all sides. It returns the sides of each round, and after each the healing event.
func (r *Room) Netsplit(from, n, depth, rounds int, mix Mix) ([][][]int, error) {
	var out [][][]int
	for range rounds {
		sides, err := r.Forks(from, n, depth, mix)
		if err != nil {
			return nil, err
		}
		var ends []int
		for _, s := range sides {
			ends = append(ends, s[len(s)-1])
		}
		if from, err = r.Heal(ends...); err != nil {
			return nil, err
		}
		out = append(out, sides, [][]int{{from}})
	}
	return out, nil
}

// Heal sends a message of the creator's that names the ends. If there are more than an event may name, several events
// do, and the last one of them is returned.
func (r *Room) Heal(ends ...int) (int, error) {
	for {
		some := ends[:min(len(ends), event.MaxPrevEvents)]
		n, err := r.Add(message(r.Creator(), "healed "+strconv.Itoa(r.Len())), some...)
		if err != nil {
			return 0, fmt.Errorf("heal: %w", err)
		}
		if ends = ends[len(some):]; len(ends) == 0 {
			return n, nil
		}
		ends = append(ends[:len(ends):len(ends)], n)
	}
}

// PowerLevelChain changes the power levels n times, each change cites the one before.
func (r *Room) PowerLevelChain(from, n int) ([]int, error) {
	return r.inLine(from, n, func(i int) Action { return stateOf(r.Creator(), typePowerLevels, "", r.PowerLevels(1000+i)) })
}

// ACLChurn changes the server ACL n times, by those with power in turn.
func (r *Room) ACLChurn(from, n int) ([]int, error) {
	return r.inLine(from, n, func(i int) Action { return stateOf(r.officers[i%admins], typeServerACL, "", ACL(1000+i)) })
}

// JoinPart is a bridge to a chat network whose users come and go: n memberships of users of one server, each of whom
// joins and leaves in turn.
func (r *Room) JoinPart(from, users, n int) ([]int, error) {
	bridge := r.cfg.Names(0)
	first := r.late
	r.late += users
	return r.inLine(from, n, func(i int) Action {
		user := id.NewUser("irc"+strconv.Itoa(first+i%users), bridge)
		if i/users%2 == 0 {
			return member(user, user, "join", "irc user")
		}
		return member(user, user, "leave", "")
	})
}

// inLine appends a line of events, all of which must be allowed.
func (r *Room) inLine(from, n int, what func(i int) Action) ([]int, error) {
	out := make([]int, n)
	for i := range out {
		var err error
		if from, err = r.Add(what(i), from); err != nil {
			return nil, err
		}
		out[i] = from
	}
	return out, nil
}

// side is one of some sides of a split room: the officers and the crowd are shared out among them.
type side struct{ i, of int }

func (s side) pick(r *Room, users []id.User, m state.Map) (id.User, bool) {
	var mine []id.User
	for i, u := range users {
		if i%s.of == s.i && r.joined(u, m) {
			mine = append(mine, u)
		}
	}
	if len(mine) == 0 {
		return "", false
	}
	return mine[r.rng.IntN(len(mine))], true
}

func (r *Room) joined(u id.User, m state.Map) bool {
	n, ok := m.Get(state.Key{Type: typeMember, StateKey: string(u)})
	return ok && r.events[n].Membership() == "join"
}

// grow appends a branch of random events.
func (r *Room) grow(prev []int, s side, depth int, mix Mix) ([]int, error) {
	out := make([]int, 0, depth)
	for len(out) < depth {
		n, err := r.step(prev, s, mix)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
		prev = []int{n}
	}
	return out, nil
}

func (r *Room) step(prev []int, s side, mix Mix) (int, error) {
	before, err := r.Before(prev...)
	if err != nil {
		return 0, err
	}
	for range attempts {
		n, err := r.Add(r.draw(before, s, mix), prev...)
		if refused := (*auth.Error)(nil); errors.As(err, &refused) {
			continue
		}
		return n, err
	}
	// The creator may always speak: nobody has the power to throw him out.
	return r.Add(message(r.Creator(), "still here "+strconv.Itoa(r.Len())), prev...)
}

// draw chooses what happens next on a side.
func (r *Room) draw(m state.Map, s side, mix Mix) Action {
	n := r.Len()
	speaker, ok := s.pick(r, r.crowd, m)
	if !ok {
		speaker = r.Creator()
	}
	officer, ok := s.pick(r, r.officers, m)
	if !ok {
		officer = r.Creator()
	}
	kinds := 10
	if mix == Fierce {
		kinds = 16
	}
	switch r.rng.IntN(kinds) {
	case 5, 6:
		return member(speaker, speaker, "join", "Name "+strconv.Itoa(n))
	case 7:
		return stateOf(officer, typeTopic, "", map[string]string{"topic": "Topic " + strconv.Itoa(n)})
	case 8, 9:
		r.late++
		guest := id.NewUser("late"+strconv.Itoa(r.late), speaker.Server())
		return member(guest, guest, "join", "")
	case 10:
		return stateOf(officer, typePowerLevels, "", r.fierceLevels(n))
	case 11:
		return stateOf(officer, typeJoinRules, "", map[string]string{"join_rule": [...]string{"public", "invite"}[r.rng.IntN(2)]})
	case 12:
		return stateOf(officer, typeServerACL, "", ACL(n%100))
	case 13:
		return member(officer, r.crowd[r.rng.IntN(len(r.crowd))], "leave", "")
	case 14:
		return member(officer, r.crowd[r.rng.IntN(len(r.crowd))], "ban", "")
	case 15:
		return member(officer, r.crowd[r.rng.IntN(len(r.crowd))], "invite", "")
	}
	return message(speaker, "Message "+strconv.Itoa(n))
}

// fierceLevels takes power from somebody, or gives it.
func (r *Room) fierceLevels(n int) map[string]any {
	levels := r.PowerLevels(n % 100)
	users := levels["users"].(map[id.User]int)
	users[r.officers[1+r.rng.IntN(len(r.officers)-1)]] = 25 * r.rng.IntN(4)
	users[r.crowd[r.rng.IntN(len(r.crowd))]] = 50
	return levels
}
