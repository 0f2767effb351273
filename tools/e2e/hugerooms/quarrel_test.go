package hugerooms

import (
	"fmt"
	"maps"
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/tools/hugeroom"
	"hanse/tools/mxclient"
)

const (
	typeLevels = "m.room.power_levels"
	typeRules  = "m.room.join_rules"
	typeMember = "m.room.member"
)

// quarrel is what two sides do in one round that they will not agree about. Both change the topic, the server ACL and
// names. The first takes the power of the other's deputy away, while that bans and kicks; sometimes the other changes
// power levels too. Each bans somebody of the other's, who goes on writing. New people come to both, to a room that the
// other side has closed meanwhile, or has not.
type quarrel struct {
	*split
	n          int
	one, other *shore
	victims    [2]*mxclient.Client // of one and of the other
	strangers  []id.User           // members of other servers
	levels     map[string]any      // before
}

// quarrel lets those join who will be banned.
func (s *split) quarrel(n int) *quarrel {
	t := s.t
	t.Helper()
	q := &quarrel{split: s, n: n, one: s.shores[n%2], other: s.shores[1-n%2]}
	if err := q.one.admin.StateContent(t.Context(), s.room, typeLevels, "", &q.levels); err != nil {
		t.Fatal(err)
	}
	in(t, s.peer, func(r *hugeroom.Room) error { q.strangers = r.Crowd()[2*n : 2*n+2]; return nil })
	for i, sh := range []*shore{q.one, q.other} {
		q.victims[i] = q.newcomer(sh, "victim")
	}
	until(t, "the newcomers on both sides", s.same)
	return q
}

// newcomer registers and joins.
func (q *quarrel) newcomer(sh *shore, name string) *mxclient.Client {
	t := q.t
	t.Helper()
	p := register(t, sh.cluster, fmt.Sprint(name, sh.name, q.n))[0]
	if _, err := p.Join(t.Context(), q.room, q.shores[0].cluster.ServerName); err != nil {
		t.Fatal(err)
	}
	q.touch(typeMember, p.UserID)
	return p
}

func (q *quarrel) touch(typ, key string) {
	if k := (event.Tuple{Type: typ, StateKey: key}); !slices.Contains(q.touched, k) {
		q.touched = append(q.touched, k)
	}
}

func (q *quarrel) set(p *mxclient.Client, typ, key string, content any) {
	q.t.Helper()
	if _, err := p.SendState(q.t.Context(), q.room, typ, key, content); err != nil {
		q.t.Fatalf("%s %q of %s: %v", typ, key, p.UserID, err)
	}
	q.touch(typ, key)
}

func (q *quarrel) judge(p *mxclient.Client, membership string, who string) {
	q.t.Helper()
	q.set(p, typeMember, who, map[string]string{"membership": membership, "reason": fmt.Sprint("round ", q.n)})
}

func (q *quarrel) rename(p *mxclient.Client, name string) {
	q.t.Helper()
	q.set(p, typeMember, p.UserID, map[string]string{"membership": "join", "displayname": name})
}

// apart lets both sides go their way, at the same time, while people write.
func (q *quarrel) apart() {
	q.t.Helper()
	for i, sh := range []*shore{q.one, q.other} {
		q.rename(q.victims[i], "before") // an event of theirs that nobody minds
		q.say(q.newcomer(sh, "new"))
	}
	q.more(3)
	for i := range 2 {
		for k, sh := range []*shore{q.one, q.other} {
			q.set(sh.admin, "m.room.topic", "", map[string]string{"topic": fmt.Sprint(sh.name, q.n, i)})
			q.set(sh.deputy, "org.example.side", sh.name, map[string]int{"n": q.n, "i": i}) // the other side knows nothing of it
			q.set(sh.admin, "m.room.server_acl", "", hugeroom.ACL(100*q.n+10*i+k))
			q.rename(sh.talker, fmt.Sprint(sh.name, q.n, i))
		}
		q.more(3)
	}
	q.judge(q.one.deputy, "ban", q.victims[1].UserID)
	q.judge(q.other.deputy, "ban", q.victims[0].UserID)
	q.judge(q.other.deputy, "ban", string(q.strangers[0]))
	q.judge(q.other.deputy, "leave", string(q.strangers[1]))
	q.set(q.one.admin, typeLevels, "", q.power(map[string]int{q.other.deputy.UserID: 0}))
	if q.n%3 == 2 {
		q.set(q.other.admin, typeLevels, "", q.power(map[string]int{q.other.talker.UserID: 25}))
	}
	q.set(q.other.admin, typeRules, "", map[string]any{"join_rule": [...]string{"invite", "public"}[q.n%2], "org.example.n": q.n})
	q.more(3)
	for i, p := range q.victims { // on the other side they have been thrown out
		q.rename(p, fmt.Sprint("still here ", i))
		q.say(p)
	}
	q.set(q.one.deputy, "org.example.deputy", q.one.name, map[string]int{"n": q.n})
	q.set(q.other.deputy, "org.example.deputy", q.other.name, map[string]int{"n": q.n})
	q.more(3)
}

func (q *quarrel) say(p *mxclient.Client) {
	q.t.Helper()
	if _, err := p.SendText(q.t.Context(), q.room, fmt.Sprint("said", q.n), "here I am"); err != nil {
		q.t.Fatal(err)
	}
}

// power is the power levels from before with those of some users changed.
func (q *quarrel) power(of map[string]int) map[string]any {
	levels := maps.Clone(q.levels)
	users := maps.Clone(levels["users"].(map[string]any))
	for u, n := range of {
		users[u] = n
	}
	levels["users"] = users
	return levels
}

// reconcile logs who has won, and gives power and open doors back.
func (q *quarrel) reconcile() {
	t := q.t
	t.Helper()
	membership := func(user string) string {
		var m struct {
			Membership string `json:"membership"`
		}
		if err := q.one.admin.StateContent(t.Context(), q.room, typeMember, user, &m); err != nil {
			return "none" // a newcomer whom the algorithm has never seen join
		}
		return m.Membership
	}
	guest := func(sh *shore) string {
		return membership(fmt.Sprint("@new", sh.name, q.n, ":", sh.cluster.ServerName))
	}
	t.Logf("round %d: the victims are %s and %s, the strangers %s and %s, the newcomers %s and %s", q.n, membership(q.victims[0].UserID),
		membership(q.victims[1].UserID), membership(string(q.strangers[0])), membership(string(q.strangers[1])), guest(q.one), guest(q.other))
	q.set(q.one.admin, typeLevels, "", q.levels)
	q.set(q.one.admin, typeRules, "", map[string]any{"join_rule": "public", "org.example.n": fmt.Sprint("after ", q.n)})
	until(t, "reconciled", q.same)
}
