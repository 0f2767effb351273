package auth_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// "Auth events selection" of the server-server API.
func TestNeeded(t *testing.T) {
	const common = "power_levels member/@bob:b"
	for _, test := range []struct {
		typ, key, content string
		want, since8      string // since8: also, since version 8
	}{
		{"m.room.message", "-", `{}`, common, ""},
		{"m.room.topic", "", `{}`, common, ""},
		{"m.room.member", "-", `{"membership":"join"}`, common, ""},
		{"m.room.member", "@bob:b", `{"membership":"join"}`, common + " join_rules", ""},
		{"m.room.member", "@bob:b", `{"membership":"leave"}`, common, ""},
		{"m.room.member", "@bob:b", `{"membership":"knock"}`, common + " join_rules", ""},
		{"m.room.member", "@x:y", `{"membership":"ban"}`, common + " member/@x:y", ""},
		{"m.room.member", "@x:y", `{"membership":"invite"}`, common + " member/@x:y join_rules", ""},
		{"m.room.member", "@x:y", `{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`,
			common + " member/@x:y join_rules third_party_invite/t", ""},
		{"m.room.member", "@x:y", `{"membership":"invite","third_party_invite":{"signed":{"token":1}}}`,
			common + " member/@x:y join_rules", ""},
		{"m.room.member", "@x:y", `{"membership":"leave","third_party_invite":{"signed":{"token":"t"}}}`,
			common + " member/@x:y", ""},
		{"m.room.member", "@bob:b", `{"membership":"join","join_authorised_via_users_server":"@a:a"}`,
			common + " join_rules", " member/@a:a"},
		{"m.room.member", "@bob:b", `{"membership":"join","join_authorised_via_users_server":"@bob:b"}`,
			common + " join_rules", ""},
		{"m.room.member", "@bob:b", `{"membership":"leave","join_authorised_via_users_server":"@a:a"}`, common, ""},
		{"m.room.member", "@bob:b", `[]`, common, ""},
	} {
		for _, v := range roomversion.Supported() {
			rules, _ := roomversion.Get(v)
			k := &test.key
			if test.key == "-" {
				k = nil
			}
			want := test.want
			if !rules.RoomIDIsCreateHash {
				want = "create " + want
			}
			if rules.RestrictedJoin {
				want += test.since8
			}
			var got []string
			for _, n := range auth.Needed(rules, test.typ, k, bob, []byte(test.content)) {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(n.Type, "m.room.")+"/"+n.StateKey, "/"))
			}
			if strings.Join(got, " ") != want {
				t.Errorf("version %s: %s %s: %v, want %s", v, test.typ, test.content, got, want)
			}
		}
	}
	rules, _ := roomversion.Get("11")
	if n := auth.Needed(rules, "m.room.create", key(""), bob, nil); len(n) != 0 {
		t.Errorf("m.room.create: %v", n)
	}
}

// Rule 2, since version 12 rule 3: "Considering the event's auth_events".
func TestCheckAuthEvents(t *testing.T) {
	pick := func(r *room, types ...string) (evs []*event.PDU) {
		for _, typ := range types {
			typ, k, _ := strings.Cut(typ, "/")
			ev := r.state.StateEvent("m.room."+typ, k)
			if ev == nil {
				r.t.Fatalf("no %s", typ)
			}
			evs = append(evs, ev)
		}
		return evs
	}
	selection := func(r *room) []*event.PDU {
		if r.rules.RoomIDIsCreateHash {
			return pick(r, "power_levels", "member/@bob:b")
		}
		return pick(r, "create", "power_levels", "member/@bob:b")
	}
	for _, test := range []struct {
		name  string
		step  func(*room, []*event.PDU) []*event.PDU
		to11  string
		since string
	}{
		{"the selection", func(_ *room, s []*event.PDU) []*event.PDU { return s }, "ok", "ok"},
		{"less than the selection", func(_ *room, s []*event.PDU) []*event.PDU { return s[:1] }, "ok", "ok"},
		{"duplicates", func(r *room, s []*event.PDU) []*event.PDU { return append(s, r.powerLevels(nil)) }, "2.1", "3.1"},
		{"the same twice", func(_ *room, s []*event.PDU) []*event.PDU { return append(s, s[0]) }, "2.1", "3.1"},
		{"not selected", func(r *room, s []*event.PDU) []*event.PDU { return append(s, pick(r, "join_rules")...) }, "2.2", "3.2"},
		{"member that is not selected", func(r *room, s []*event.PDU) []*event.PDU { return append(s, pick(r, "member/@alice:a")...) }, "2.2", "3.2"},
		{"no state event", func(r *room, s []*event.PDU) []*event.PDU { return append(s, r.message(bob)) }, "2.2", "3.2"},
		{"create", func(r *room, s []*event.PDU) []*event.PDU {
			if r.rules.RoomIDIsCreateHash {
				return append(s, r.create)
			}
			return s
		}, "ok", "3.2"},
		{"rejected", func(r *room, s []*event.PDU) []*event.PDU { s[1].ID = "$rejected"; return s }, "2.3", "3.3"},
		{"no create", func(_ *room, s []*event.PDU) []*event.PDU { return s[1:] }, "2.4", "ok"},
		{"none", func(*room, []*event.PDU) []*event.PDU { return nil }, "2.4", "ok"},
		// MSC4307.
		{"of another room", func(_ *room, s []*event.PDU) []*event.PDU { s[1].RoomID = "!other:a"; return s }, "2.5", "3.4"},
	} {
		for _, v := range roomversion.Supported() {
			r := newRoom(t, v)
			evs := test.step(r, slices.Clone(selection(r)))
			want := test.to11
			if r.rules.RoomIDIsCreateHash {
				want = test.since
			}
			opts := auth.Options{Rejected: func(e id.Event) bool { return e == "$rejected" }}
			if got := ruleOf(t, auth.CheckAuthEvents(r.message(bob), evs, opts)); got != want {
				t.Errorf("version %s: %s: rule %s, want %s", v, test.name, got, want)
			}
		}
	}
}

// A refusal names the version and the rule for those who read the logs.
func TestErrorText(t *testing.T) {
	r := newRoom(t, "12")
	err := auth.Check(r.message(carol), r.state, auth.Options{})
	want := `not authorised by rule 6 of room version 12: sender @carol:c is not joined ("")`
	if fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
}
