package auth_test

import (
	"encoding/json"
	"errors"
	"testing"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

var fuzzTypes = []string{
	"m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules",
	"m.room.third_party_invite", "m.room.aliases", "m.room.redaction", "m.room.message",
}

// FuzzCheck puts arbitrary content into a state event and checks events that
// read it, and the event itself. Nothing may panic, refusals must name a rule,
// and a check must come to the same result twice (the second one reads the
// projections that the first one made).
func FuzzCheck(f *testing.F) {
	for i, seed := range []string{
		`{}`, `null`, `[]`, `{"membership":"join","join_authorised_via_users_server":"@alice:a"}`,
		`{"users":{"@alice:a":"1e5","@bob:b":" +7 "},"events":{"m.room.message":-1},"ban":null}`,
		`{"join_rule":"restricted"}`, `{"public_key":"AAAA","public_keys":[{"public_key":"!"},1]}`,
		`{"membership":"invite","third_party_invite":{"signed":{"mxid":"@bob:b","token":"t","signatures":{"x":{"ed25519:0":"AA"}}}}}`,
		`{"creator":7,"m.federate":false,"additional_creators":["@alice:a",null]}`,
		`{"users":{"":1,"@":2},"notifications":{"room":1e400}}`,
	} {
		f.Add(uint8(i), uint8(i), uint8(i%3), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, version, typ, sender uint8, raw []byte) {
		if !json.Valid(raw) {
			t.Skip("the event parser lets no other bytes through")
		}
		versions := roomversion.Supported()
		r := newRoom(t, versions[int(version)%len(versions)])
		name := fuzzTypes[int(typ)%len(fuzzTypes)]
		senders := []id.User{creator, alice, bob, carol}
		k := ""
		switch name {
		case "m.room.member":
			k = string(bob)
		case "m.room.third_party_invite":
			k = "t"
		}
		by := senders[int(sender)%len(senders)]
		same(t, r.stateEvent(by, name, k, string(raw)), r)

		ev := r.put(by, name, k, string(raw))
		if name == "m.room.create" {
			ev.ID, ev.PrevEvents = r.create.ID, nil
		}
		for _, u := range senders {
			same(t, r.message(u), r)
			same(t, r.memberEvent(u, u, "join"), r)
			same(t, r.memberEvent(u, bob, "ban"), r)
			same(t, r.memberEvent(u, bob, "leave"), r)
			same(t, r.memberEvent(u, carol, "invite"), r)
			same(t, r.stateEvent(u, "m.room.power_levels", "", base), r)
			auth.PowerOf(u, r.state)
		}
	})
}

func same(t *testing.T, ev *event.PDU, r *room) {
	t.Helper()
	first := auth.Check(ev, r.state, auth.Options{})
	second := auth.Check(ev, r.state, auth.Options{})
	if ruleOf(t, first) != ruleOf(t, second) {
		t.Fatalf("%v, then %v", first, second)
	}
	var refused *auth.Error
	if errors.As(first, &refused) && (refused.Rule == "" || refused.Version != r.rules.Version) {
		t.Fatalf("refusal without a rule: %#v", refused)
	}
	auth.NeededBy(ev)
}
