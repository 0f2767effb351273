package auth_test

import (
	"strings"
	"testing"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// "Authorisation rules" of the room version pages, everything but members and
// power levels.
func TestCheck(t *testing.T) {
	runRules(t, []ruleTest{
		// 1. If type is m.room.create.
		{"create", func(r *room) *event.PDU { return r.create }, "ok"},
		{"create with prev_events", func(r *room) *event.PDU {
			r.create.PrevEvents = []id.Event{"$x"}
			return r.create
		}, "1.1"},
		{"create in a room of another server", func(r *room) *event.PDU {
			ev := r.stateEvent("@x:elsewhere", "m.room.create", "", content{"creator": creator})
			ev.PrevEvents = nil
			return ev
		}, "1.2 1.2 1.2 1.2 1.2 1.2 ok"},
		{"create of version 12 with room_id", func(r *room) *event.PDU {
			r.create.JSON = []byte(`{"room_id":"!x","type":"m.room.create"}`)
			return r.create
		}, "- - - - - - 1.2"},
		{"create of an unknown version", func(r *room) *event.PDU {
			return r.createWith(`{"creator":"@creator:a","room_version":"nope"}`)
		}, "1.3"},
		{"create with a version that is no string", func(r *room) *event.PDU {
			return r.createWith(`{"creator":"@creator:a","room_version":11}`)
		}, "1.3"},
		{"create without creator", func(r *room) *event.PDU {
			if r.rules.ImplicitCreator && !r.rules.PrivilegedCreators {
				r.t.Skip("version 11 has no such rule")
			}
			return r.createWith(`{}`)
		}, "1.4 1.4 1.4 1.4 1.4 1.4 ok"},
		{"create, content is no object", func(r *room) *event.PDU { return r.createWith(`[]`) }, "1.3"},

		// 2. (12) The room_id is the ID of the create event.
		{"event of another room", func(r *room) *event.PDU {
			ev := r.message(alice)
			ev.RoomID = "!2"
			return ev
		}, "2.5 2.5 2.5 2.5 2.5 2.5 2"},
		{"no create event", func(r *room) *event.PDU {
			delete(r.state, event.Tuple{Type: "m.room.create"})
			return r.message(alice)
		}, "2.4 2.4 2.4 2.4 2.4 2.4 2"},

		// 3. m.federate.
		{"not federated, foreign", func(r *room) *event.PDU { r.federate(false); return r.message(bob) }, "3 3 3 3 3 3 4"},
		{"not federated, own", func(r *room) *event.PDU { r.federate(false); return r.message(alice) }, "ok"},
		{"federated", func(r *room) *event.PDU { r.federate(true); return r.message(bob) }, "ok"},
		{"m.federate that is not false", func(r *room) *event.PDU { r.federate("false"); return r.message(bob) }, "ok"},

		// 4. m.room.aliases, versions 1 to 5.
		{"aliases without state key", func(r *room) *event.PDU {
			return r.event(bob, "m.room.aliases", nil, content{})
		}, "4.1 4.1 ok ok ok ok ok"},
		{"aliases of another server", func(r *room) *event.PDU {
			return r.stateEvent(alice, "m.room.aliases", "b", content{})
		}, "4.2 4.2 ok ok ok ok ok"},
		{"aliases of a stranger", func(r *room) *event.PDU {
			return r.stateEvent(carol, "m.room.aliases", "c", content{})
		}, "ok ok 5 5 5 5 6"},

		// 6. The sender is joined.
		{"message by a stranger", func(r *room) *event.PDU { return r.message(carol) }, "6 6 5 5 5 5 6"},
		{"message by an invited user", func(r *room) *event.PDU {
			r.member(carol, "invite")
			return r.message(carol)
		}, "6 6 5 5 5 5 6"},
		{"message by a member", func(r *room) *event.PDU { return r.message(bob) }, "ok"},

		// 7. m.room.third_party_invite.
		{"third party invite", func(r *room) *event.PDU {
			return r.stateEvent(bob, "m.room.third_party_invite", "token", content{})
		}, "ok"},
		{"third party invite above one's level", func(r *room) *event.PDU {
			r.powerLevels(content{"invite": 1})
			return r.stateEvent(bob, "m.room.third_party_invite", "token", content{})
		}, "7.1 7.1 6.1 6.1 6.1 6.1 7.1"},

		// 8. The required power level.
		{"state by a member", func(r *room) *event.PDU {
			return r.stateEvent(bob, "m.room.topic", "", content{})
		}, "8 8 7 7 7 7 8"},
		{"state by a moderator", func(r *room) *event.PDU {
			return r.stateEvent(alice, "m.room.topic", "", content{})
		}, "ok"},
		{"state with its own level", func(r *room) *event.PDU {
			r.powerLevels(content{"events": content{"m.room.topic": 51}})
			return r.stateEvent(alice, "m.room.topic", "", content{})
		}, "8 8 7 7 7 7 8"},
		{"state default", func(r *room) *event.PDU {
			r.powerLevels(content{"state_default": 0})
			return r.stateEvent(bob, "m.room.topic", "", content{})
		}, "ok"},
		{"message default", func(r *room) *event.PDU {
			r.powerLevels(content{"events_default": 1})
			return r.message(bob)
		}, "8 8 7 7 7 7 8"},
		{"users default", func(r *room) *event.PDU {
			r.powerLevels(content{"events_default": 1, "users_default": 1})
			return r.message(bob)
		}, "ok"},
		{"no power levels, creator sends state", func(r *room) *event.PDU {
			delete(r.state, event.Tuple{Type: "m.room.power_levels"})
			return r.stateEvent(creator, "m.room.topic", "", content{})
		}, "ok"},
		{"no power levels, state_default is 50", func(r *room) *event.PDU {
			delete(r.state, event.Tuple{Type: "m.room.power_levels"})
			return r.stateEvent(alice, "m.room.topic", "", content{})
		}, "8 8 7 7 7 7 8"},

		// 9. State keys that are user IDs.
		{"state key of another user", func(r *room) *event.PDU {
			return r.stateEvent(creator, "org.example", string(bob), content{})
		}, "9 9 8 8 8 8 9"},
		{"own state key", func(r *room) *event.PDU {
			return r.stateEvent(alice, "org.example", string(alice), content{})
		}, "ok"},
		{"state key that only looks like a user", func(r *room) *event.PDU {
			return r.stateEvent(alice, "org.example", "@", content{})
		}, "9 9 8 8 8 8 9"},

		// 11. m.room.redaction, versions 1 and 2.
		{"redaction by a moderator", redaction(alice, "$x:elsewhere"), "ok"},
		{"redaction of the own server", redaction(bob, "$x:b"), "ok"},
		{"redaction of another server", redaction(bob, "$x:a"), "11.3 ok ok ok ok ok ok"},
		{"redaction of nothing", redaction(bob, ""), "11.3 ok ok ok ok ok ok"},
	})
}

// MSC3757: state keys that begin with a user id.
func TestOwnedState(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, tc := range []struct {
		sender id.User
		key    string
		ok     bool
	}{
		{alice, string(alice), true}, {alice, string(alice) + "_device", true}, {alice, string(alice) + "_", true},
		{bob, string(alice) + "_device", false}, {bob, string(alice), false},
		{alice, string(bob) + "_device", true}, {alice, string(bob), true}, {creator, string(alice), true},
		{alice, string(creator) + "_x", false}, {alice, "@other_one:b_x", true}, {alice, string(alice) + ".evil_x", true}, // of a user nobody knows
		{alice, "@", false}, {alice, "@alice", false}, {alice, "@alice_x", false}, {alice, "@:a_x", true}, {alice, "@alice:_x", false},
		{alice, string(alice) + "_" + long, true}, {alice, string(alice) + "_" + long + "x", false}, {alice, long, true}, {alice, long + "x", false},
		{bob, "@bob:b.evil_x", false}, // of somebody with the same power
	} {
		for _, base := range []string{"10", "11"} {
			r := newRoom(t, "org.matrix.msc3757."+base)
			r.powerLevels(content{"state_default": 0})
			if err := auth.Check(r.stateEvent(tc.sender, "org.example", tc.key, content{}), r.state, auth.Options{}); (err == nil) != tc.ok {
				t.Errorf("version %s: %s, %.40q: %v", base, tc.sender, tc.key, err)
			}
		}
	}
}

func redaction(sender id.User, redacts id.Event) func(*room) *event.PDU {
	return func(r *room) *event.PDU {
		ev := r.event(sender, "m.room.redaction", nil, content{})
		ev.Redacts = redacts
		return ev
	}
}

func (r *room) createWith(raw string) *event.PDU {
	ev := r.stateEvent(creator, "m.room.create", "", raw)
	ev.PrevEvents = nil
	return ev
}

func (r *room) federate(v any) {
	old := r.create
	r.create = r.put(creator, "m.room.create", "", content{"creator": creator, "m.federate": v})
	r.create.ID = old.ID
}

// MSC4289 and rule 1.4 of version 12: additional_creators.
func TestCreateAdditionalCreators(t *testing.T) {
	for raw, want := range map[string]string{
		`{}`:                         "ok",
		`{"additional_creators":[]}`: "ok",
		`{"additional_creators":["@x:y","@z:w"]}`: "ok",
		`{"additional_creators":"@x:y"}`:          "1.4",
		`{"additional_creators":{}}`:              "1.4",
		`{"additional_creators":null}`:            "1.4",
		`{"additional_creators":["@x:y",1]}`:      "1.4",
		`{"additional_creators":["x"]}`:           "1.4",
	} {
		r := newRoom(t, "12")
		err := auth.Check(r.createWith(raw), r.state, auth.Options{})
		if got := ruleOf(t, err); got != want {
			t.Errorf("%s: rule %s, want %s (%v)", raw, got, want, err)
		}
		r = newRoom(t, "11")
		if err := auth.Check(r.createWith(raw), r.state, auth.Options{}); err != nil {
			t.Errorf("version 11: %s: %v", raw, err)
		}
	}
}

// Rule 2 of version 12: the create event must not have been rejected.
func TestRejectedCreate(t *testing.T) {
	r := newRoom(t, "12")
	opts := auth.Options{Rejected: func(e id.Event) bool { return e == r.create.ID }}
	if got := ruleOf(t, auth.Check(r.message(alice), r.state, opts)); got != "2" {
		t.Errorf("Check: rule %s", got)
	}
	if got := ruleOf(t, auth.CheckAuthEvents(r.message(alice), nil, opts)); got != "2" {
		t.Errorf("CheckAuthEvents: rule %s", got)
	}
}
