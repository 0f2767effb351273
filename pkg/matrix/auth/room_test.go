package auth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// groups are the room versions that number their rules alike; the columns of
// the tables in these tests.
var groups = [][]string{{"1", "2"}, {"3", "4", "5"}, {"6"}, {"7"}, {"8", "9"}, {"10", "11"}, {"12"}}

type content = map[string]any

const (
	creator = id.User("@creator:a")
	alice   = id.User("@alice:a") // level 50
	bob     = id.User("@bob:b")   // level 0
	carol   = id.User("@carol:c") // nobody
)

// room is a state to check events against.
type room struct {
	t      testing.TB
	rules  *roomversion.Rules
	id     id.Room
	create *event.PDU
	state  auth.State
	serial int
}

// newRoom has @creator joined, @alice joined with level 50, @bob joined with
// level 0, power levels and public join rules.
func newRoom(t testing.TB, version string) *room {
	t.Helper()
	r := bareRoom(t, version, nil)
	r.member(creator, "join")
	r.member(alice, "join")
	r.member(bob, "join")
	r.powerLevels(nil)
	r.put(creator, "m.room.join_rules", "", content{"join_rule": "public"})
	return r
}

// bareRoom has nothing but the create event.
func bareRoom(t testing.TB, version string, extra content) *room {
	t.Helper()
	rules, ok := roomversion.Get(version)
	if !ok {
		t.Fatalf("room version %s", version)
	}
	r := &room{t: t, rules: rules, id: "!room:a", state: auth.State{}}
	if rules.RoomIDIsCreateHash {
		r.id = "!1"
	}
	c := content{"room_version": version, "creator": creator}
	for k, v := range extra {
		c[k] = v
	}
	r.create = r.put(creator, "m.room.create", "", c)
	return r
}

// powerLevels sets levels with @creator on 100 (where that is allowed) and
// @alice on 50.
func (r *room) powerLevels(extra content) *event.PDU {
	users := content{string(alice): 50}
	if !r.rules.PrivilegedCreators {
		users[string(creator)] = 100
	}
	c := content{"users": users}
	for k, v := range extra {
		c[k] = v
	}
	return r.put(creator, "m.room.power_levels", "", c)
}

func (r *room) member(u id.User, membership string) *event.PDU {
	return r.put(u, "m.room.member", string(u), content{"membership": membership})
}

// put makes an event part of the state without checking it.
func (r *room) put(sender id.User, typ, key string, c any) *event.PDU {
	ev := r.event(sender, typ, &key, c)
	r.state[ev.Tuple()] = ev
	return ev
}

// event makes an event in the room. c is its content, or JSON if it is a
// string.
func (r *room) event(sender id.User, typ string, key *string, c any) *event.PDU {
	r.t.Helper()
	raw, isJSON := c.(string)
	if !isJSON {
		b, err := json.Marshal(c)
		if err != nil {
			r.t.Fatal(err)
		}
		raw = string(b)
	}
	r.serial++
	ev := &event.PDU{
		ID: id.Event(fmt.Sprintf("$%d", r.serial)), RoomID: r.id, Rules: r.rules, Type: typ, StateKey: key,
		Sender: sender, Depth: int64(r.serial), OriginServerTS: int64(r.serial), Content: []byte(raw),
	}
	if r.rules.EventID == 1 {
		ev.ID += id.Event(":" + sender.Server())
	}
	if r.create != nil {
		ev.PrevEvents = []id.Event{"$before"}
	}
	envelope := content{"type": typ, "sender": sender, "content": json.RawMessage(raw)}
	if !json.Valid([]byte(raw)) {
		delete(envelope, "content")
	}
	if typ != "m.room.create" || !r.rules.RoomIDIsCreateHash {
		envelope["room_id"] = r.id
	}
	ev.JSON, _ = json.Marshal(envelope)
	return ev
}

func (r *room) message(sender id.User) *event.PDU {
	return r.event(sender, "m.room.message", nil, content{"body": "hi"})
}

func (r *room) memberEvent(sender, target id.User, membership string) *event.PDU {
	return r.event(sender, "m.room.member", key(string(target)), content{"membership": membership})
}

func (r *room) stateEvent(sender id.User, typ, k string, c any) *event.PDU {
	return r.event(sender, typ, &k, c)
}

func key(s string) *string { return &s }

// ruleOf is the number of the rule that refused, "ok" if none did.
func ruleOf(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return "ok"
	}
	var refused *auth.Error
	if !errors.As(err, &refused) {
		t.Fatalf("not a refusal: %v", err)
	}
	return refused.Rule
}

// ruleTest is a row: an event in a room that setup made, and for each group of
// versions the rule that refuses it, "ok", or "-" where it does not apply.
type ruleTest struct {
	name  string
	event func(r *room) *event.PDU
	want  string
}

func runRules(t *testing.T, tests []ruleTest) {
	t.Helper()
	for _, test := range tests {
		columns := strings.Fields(test.want)
		if len(columns) == 1 {
			columns = strings.Fields(strings.Repeat(test.want+" ", len(groups)))
		}
		if len(columns) != len(groups) {
			t.Fatalf("%s: %d columns", test.name, len(columns))
		}
		for i, group := range groups {
			for _, v := range group {
				if columns[i] == "-" {
					continue
				}
				t.Run(test.name+"/v"+v, func(t *testing.T) {
					r := newRoom(t, v)
					ev := test.event(r)
					err := auth.Check(ev, r.state, auth.Options{})
					if got := ruleOf(t, err); got != columns[i] {
						t.Errorf("rule %s, want %s (%v)", got, columns[i], err)
					}
				})
			}
		}
	}
}
