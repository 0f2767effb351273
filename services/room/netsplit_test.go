package room

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"testing"

	"hanse/pkg/matrix/id"
	roomv1 "hanse/proto/room/v1"
)

// side is one server of a split room.
type side struct {
	c     *cluster
	name  id.Server
	users []string
	sent  int64 // position up to which its events were carried
}

// Two servers that are cut apart again and again, while both change members, power levels, topics and bans, agree on
// the state whenever they see the same forward extremities of the room, whatever the order in which they heard of them; and they come
// to the same extremities when members of both may speak. (Until then what one has soft-failed sets them apart.)
func TestNetsplit(t *testing.T) { netsplit(t, newSides(t)) }

func newSides(t *testing.T) []*side {
	n := newNetwork()
	return []*side{
		{c: newFedCluster(t, n, one, 1), name: one, users: []string{anna, "@adam:one.test"}},
		{c: newFedCluster(t, n, two, 2), name: two, users: []string{bert, birgt}},
	}
}

func netsplit(t *testing.T, sides []*side) {
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	for _, version := range []string{"2", "6", "10", "11", "12"} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("v%s/%d", version, seed), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 77))
				roomID := begin(t, sides, version)
				agreed := 0
				for range rounds {
					for _, s := range sides {
						s.act(t, rng, roomID, 1+rng.IntN(5))
					}
					exchange(t, rng, sides, roomID)
					for _, s := range sides {
						s.c.checkResolved(roomID)
					}
					for range 2 {
						for i, s := range sides {
							s.speak(t, roomID)
							s.tell(sides[1-i].c, roomID)
						}
					}
					if maps.Equal(sides[0].c.extremities(roomID), sides[1].c.extremities(roomID)) {
						agreed++
						sameState(t, sides[0].c, sides[1].c, roomID)
					}
				}
				t.Logf("%d of %d rounds ended alike", agreed, rounds)
				if agreed == 0 {
					t.Error("they never came to the same extremities")
				}
				for _, s := range sides {
					s.c.auditSplit(t, roomID)
				}
			})
		}
	}
}

func begin(t testing.TB, sides []*side, version string) string {
	ok := must[*roomv1.SendResponse](t)
	roomID := sides[0].c.create(version, anna, "public")
	levels := `{"users":{"@anna:one.test":100,"@bert:two.test":100,"@adam:one.test":50,"@birgit:two.test":50},"events":{"m.room.topic":0}}`
	if version == "12" {
		levels = `{"users":{"@bert:two.test":100,"@adam:one.test":50,"@birgit:two.test":50},"events":{"m.room.topic":0}}`
	}
	ok(sides[0].c.setState(roomID, anna, "m.room.power_levels", "", levels))
	ok(sides[0].c.join(roomID, sides[0].users[1]))
	ok(sides[1].c.join(roomID, bert, string(one)))
	sides[1].sent = 0
	sides[1].sent = carry(sides[1].c, sides[0].c, two, roomID, 0)
	ok(sides[1].c.join(roomID, birgt))
	sides[1].sent = carry(sides[1].c, sides[0].c, two, roomID, sides[1].sent)
	tl := sides[0].c.timeline(roomID)
	sides[0].sent = tl[len(tl)-1].Ord
	sameState(t, sides[0].c, sides[1].c, roomID)
	return roomID
}

// act does random things; many are forbidden, which is as good.
func (s *side) act(t *testing.T, rng *rand.Rand, roomID string, times int) {
	all := []string{anna, "@adam:one.test", bert, birgt}
	for i := range times {
		me, other := s.users[rng.IntN(len(s.users))], all[rng.IntN(len(all))]
		var err error
		switch rng.IntN(9) {
		case 0, 1:
			_, err = s.c.say(roomID, me, fmt.Sprint("text ", i))
		case 2:
			_, err = s.c.setState(roomID, me, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, rng.IntN(100)))
		case 3:
			_, err = s.c.setState(roomID, me, "m.room.member", other, `{"membership":"ban"}`)
		case 4:
			_, err = s.c.setState(roomID, me, "m.room.member", other, `{"membership":"leave"}`)
		case 5:
			_, err = s.c.join(roomID, me)
		case 6:
			_, err = s.c.setState(roomID, me, "m.room.power_levels", "", fmt.Sprintf(
				`{"users":{"@bert:two.test":100,"@adam:one.test":%d,"@birgit:two.test":%d},"events":{"m.room.topic":0}}`, rng.IntN(60), rng.IntN(60)))
		case 7:
			_, err = s.c.setState(roomID, me, "m.room.member", me, fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, rng.IntN(100)))
		case 8:
			_, err = s.c.setState(roomID, me, "m.room.join_rules", "", fmt.Sprintf(`{"join_rule":%q}`, []string{"public", "invite"}[rng.IntN(2)]))
		}
		_ = err // what the rules forbid does not happen
	}
	if s.c.room(roomID).JoinedLocal == 0 { // nobody left: there is nothing to agree on
		for _, u := range s.users {
			if _, err := s.c.join(roomID, u); err == nil {
				return
			}
		}
	}
}

// speak lets a member who may say something.
func (s *side) speak(t *testing.T, roomID string) {
	for _, u := range s.users {
		if _, err := s.c.say(roomID, u, "hello"); err == nil {
			return
		}
	}
}

// tell carries what is new at once.
func (s *side) tell(to *cluster, roomID string) {
	for _, e := range s.c.timeline(roomID) {
		if e.Ord > s.sent {
			s.sent = e.Ord
			if e.Sender.Server() == s.name && to.room(roomID).JoinedLocal > 0 {
				to.receive(roomID, s.name, e.JSON)
			}
		}
	}
}

// extremities are the forward extremities.
func (c *cluster) extremities(roomID string) map[id.Event]bool {
	c.tb.Helper()
	r := c.room(roomID)
	events, err := c.read.InOrder(context.Background(), r.Part, r.Extremities)
	if err != nil {
		c.tb.Fatal(err)
	}
	extremities := make(map[id.Event]bool)
	for _, e := range events {
		extremities[e.ID] = true
	}
	return extremities
}

// exchange lets each side hear what the other did, in random order, some of it twice.
func exchange(t *testing.T, rng *rand.Rand, sides []*side, roomID string) {
	t.Helper()
	type message struct {
		to     *cluster
		origin id.Server
		pdu    []byte
	}
	var mail []message
	for i, s := range sides {
		to := sides[1-i].c
		for _, e := range s.c.timeline(roomID) {
			if e.Ord > s.sent && e.Sender.Server() == s.name {
				mail = append(mail, message{to, s.name, e.JSON})
				if rng.IntN(5) == 0 {
					mail = append(mail, message{to, s.name, e.JSON})
				}
			}
		}
	}
	if rng.IntN(2) == 0 {
		rng.Shuffle(len(mail), func(i, j int) { mail[i], mail[j] = mail[j], mail[i] })
	}
	for len(mail) > 0 {
		m, n := mail[0], 1
		together := [][]byte{m.pdu}
		for most := 1 + rng.IntN(8); n < len(mail) && n < most && mail[n].to == m.to; n++ {
			together = append(together, mail[n].pdu)
		}
		if mail = mail[n:]; m.to.room(roomID).JoinedLocal > 0 {
			m.to.receive(roomID, m.origin, together...)
		}
	}
	for _, s := range sides {
		tl := s.c.timeline(roomID)
		s.sent = tl[len(tl)-1].Ord
	}
}

// auditSplit compares a room's counters with its state.
func (c *cluster) auditSplit(t *testing.T, roomID string) {
	t.Helper()
	r := c.room(roomID)
	var joined, invited, local int
	for _, e := range c.stateEvents(roomID) {
		switch e.Membership() {
		case "join":
			joined++
			if c.names.IsLocal(id.User(*e.StateKey).Server()) {
				local++
				if m := c.membership(roomID, *e.StateKey); m != "join" {
					t.Errorf("%s is joined, but %q in the index", *e.StateKey, m)
				}
			}
		case "invite":
			invited++
		case "ban", "leave":
			if c.names.IsLocal(id.User(*e.StateKey).Server()) {
				if m := c.membership(roomID, *e.StateKey); m != e.Membership() {
					t.Errorf("%s is %s, but %q in the index", *e.StateKey, e.Membership(), m)
				}
			}
		}
	}
	if r.Joined != joined || r.Invited != invited || r.JoinedLocal != local {
		t.Errorf("room %+v, want %d joined, %d invited, %d local", r, joined, invited, local)
	}
}

// A profile is changed on one side while the other lets nobody in any more (join rule "private", which the auth rules do not
// know): the resolution has neither membership, and the user is out (room versions, "Authorisation rules", m.room.member).
func TestSplitByPrivateRule(t *testing.T) {
	for _, version := range []string{"2", "5", "11", "12"} {
		for _, gap := range []bool{false, true} {
			t.Run(fmt.Sprintf("v%s gap %v", version, gap), func(t *testing.T) {
				n := newNetwork()
				a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
				ok := must[*roomv1.SendResponse](t)
				roomID := a.create(version, anna, "public")
				ok(b.join(roomID, bert, string(one)))
				joined := ok(b.join(roomID, birgt))
				carry(b, a, two, roomID, 0)
				sameState(t, a, b, roomID)
				here := ok(a.setState(roomID, anna, "m.room.join_rules", "", `{"join_rule":"private"}`))
				ok(b.setState(roomID, bert, "m.room.member", bert, `{"membership":"join","displayname":"Bertram"}`))
				hello := ok(b.say(roomID, birgt, "hello"))
				if gap {
					n.lie(map[string]func([]string, url.Values) any{"get_missing_events": func([]string, url.Values) any {
						return map[string]any{"events": []any{}}
					}})
					carry(b, a, two, roomID, hello.Pos-1)
					a.checkResolved(roomID)
					n.lie(nil)
				}
				carry(b, a, two, roomID, joined.Pos)
				carry(a, b, one, roomID, here.Pos-1)
				for _, c := range []*cluster{a, b} {
					c.checkResolved(roomID)
					if got := c.state(roomID)["m.room.member|"+bert]; got != "" {
						t.Errorf("bert has a membership: %s", got)
					}
				}
				sameState(t, a, b, roomID)
			})
		}
	}
}
