package auth_test

import (
	"testing"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// change is @alice (50) replacing the power levels current, which lack the
// users, with next.
func change(current, next string) func(*room) *event.PDU {
	return changeBy(alice, current, next)
}

func changeBy(sender id.User, current, next string) func(*room) *event.PDU {
	return func(r *room) *event.PDU {
		if current == "" {
			delete(r.state, event.Tuple{Type: "m.room.power_levels"})
		} else {
			r.put(creator, "m.room.power_levels", "", current)
		}
		return r.stateEvent(sender, "m.room.power_levels", "", next)
	}
}

const base = `{"users":{"@alice:a":50,"@bob:b":10}}`

// The rule "If type is m.room.power_levels".
func TestPowerLevelsFormat(t *testing.T) {
	const users = "10.1 10.1 9.1 9.1 9.1 9.3 10.3"
	runRules(t, []ruleTest{
		{"first", changeBy(creator, "", `{"users":{"@alice:a":9000}}`), "ok"},
		{"users is no object", change(base, `{"users":[]}`), users},
		{"users is null", change(base, `{"users":null}`), users},
		{"user ID is not valid", change(base, `{"users":{"@alice:a":50,"@bob:b":10,"bob":1}}`), users},
		{"level of a user is a list", change(base, `{"users":{"@alice:a":[]}}`), users},
		{"level of a user is null", change(base, `{"users":{"@alice:a":null}}`), users},
		{"level of a user is a boolean", change(base, `{"users":{"@alice:a":true}}`), users},
		{"level of a user is no integer string", change(base, `{"users":{"@alice:a":"x"}}`), users},
		{"level of a user is a string", change(base, `{"users":{"@alice:a":" +050 ","@bob:b":"-10"}}`), "ok ok ok ok ok 9.3 10.3"},
		{"level of a user is a float", change(base, `{"users":{"@alice:a":50.9}}`), "ok ok 9.1 9.1 9.1 9.3 10.3"},
		{"level of a user is beyond doubles", change(base, `{"users":{"@alice:a":1e999}}`), users},
		{"property is a string", change(base, `{"ban":"50"}`), "ok ok ok ok ok 9.1 10.1"},
		{"property is null", change(base, `{"ban":null}`), "10.3.2 10.3.2 9.3.2 9.3.2 9.3.2 9.1 10.1"},
		{"property is a list in the first event", changeBy(creator, "", `{"ban":[]}`), "ok ok ok ok ok 9.1 10.1"},
		{"events is no object", change(base, `{"users":{"@alice:a":50},"events":1}`), "10.5.1 10.5.1 9.5.1 9.5.1 9.5.1 9.2 10.2"},
		{"notifications is no object", change(base, `{"users":{"@alice:a":50},"notifications":1}`), "ok ok 9.5.1 9.5.1 9.5.1 9.2 10.2"},
		{"level of an event is no integer", change(base, `{"users":{"@alice:a":50},"events":{"x":"y"}}`), "10.5.1 10.5.1 9.5.1 9.5.1 9.5.1 9.2 10.2"},
		{"content is no object", change(base, `[]`), "ok"},
		{"names a creator", change(base, `{"users":{"@alice:a":50,"@creator:a":5}}`), "ok ok ok ok ok ok 10.4"},
	})
}

func TestPowerLevelsChanges(t *testing.T) {
	const (
		propOld = "10.3.1 10.3.1 9.3.1 9.3.1 9.3.1 9.5.1 10.6.1"
		propNew = "10.3.2 10.3.2 9.3.2 9.3.2 9.3.2 9.5.2 10.6.2"
		oldEvt  = "10.4.1 10.4.1 9.4.1 9.4.1 9.4.1 9.6.1 10.7.1"
		newEvt  = "10.5.1 10.5.1 9.5.1 9.5.1 9.5.1 9.7.1 10.8.1"
		oldUser = "10.6.1 10.6.1 9.6.1 9.6.1 9.6.1 9.8.1 10.9.1"
		newUser = "10.7.1 10.7.1 9.7.1 9.7.1 9.7.1 9.9.1 10.10.1"
	)
	u := func(rest string) string { return `{"users":{"@alice:a":50,"@bob:b":10}` + rest + `}` }
	runRules(t, []ruleTest{
		{"nothing", change(base, base), "ok"},
		{"add a property", change(base, u(`,"ban":50`)), "ok"},
		{"add a property above", change(base, u(`,"ban":51`)), propNew},
		{"change a property", change(u(`,"ban":50`), u(`,"ban":40`)), "ok"},
		{"change a property from above", change(u(`,"kick":51`), u(`,"kick":40`)), propOld},
		{"remove a property from above", change(u(`,"redact":51`), base), propOld},
		{"raise invite above", change(u(`,"invite":50`), u(`,"invite":60`)), propNew},
		{"remove a default", change(u(`,"state_default":50`), base), "ok"},
		{"raise users_default above", change(u(`,"users_default":0`), u(`,"users_default":51`)), propNew},
		{"same above", change(u(`,"kick":51`), u(`,"kick":51`)), "ok"},
		{"same in another format", change(u(`,"kick":51`), u(`,"kick":"51"`)), "ok ok ok ok ok 9.1 10.1"},
		{"add an event", change(base, u(`,"events":{"m.room.name":50}`)), "ok"},
		{"add an event above", change(base, u(`,"events":{"m.room.name":51}`)), newEvt},
		{"change an event from above", change(u(`,"events":{"m.room.name":51}`), u(`,"events":{"m.room.name":1}`)), oldEvt},
		{"remove an event from above", change(u(`,"events":{"m.room.name":51}`), base), oldEvt},
		{"change an event", change(u(`,"events":{"m.room.name":50}`), u(`,"events":{"m.room.name":1}`)), "ok"},
		{"add a notification above", change(base, u(`,"notifications":{"room":51}`)), "ok ok 9.5.1 9.5.1 9.5.1 9.7.1 10.8.1"},
		{"remove a notification from above", change(u(`,"notifications":{"room":51}`), base), "ok ok 9.4.1 9.4.1 9.4.1 9.6.1 10.7.1"},
		{"demote oneself", change(base, `{"users":{"@alice:a":1,"@bob:b":10}}`), "ok"},
		{"remove oneself", change(base, `{"users":{"@bob:b":10}}`), "ok"},
		{"promote oneself", change(base, `{"users":{"@alice:a":51,"@bob:b":10}}`), newUser},
		{"promote another", change(base, `{"users":{"@alice:a":50,"@bob:b":50}}`), "ok"},
		{"promote another above", change(base, `{"users":{"@alice:a":50,"@bob:b":51}}`), newUser},
		{"add a user", change(base, `{"users":{"@alice:a":50,"@bob:b":10,"@carol:c":50}}`), "ok"},
		{"remove a user", change(base, `{"users":{"@alice:a":50}}`), "ok"},
		{"demote an equal", change(`{"users":{"@alice:a":50,"@bob:b":50}}`, `{"users":{"@alice:a":50,"@bob:b":49}}`), oldUser},
		{"remove an equal", change(`{"users":{"@alice:a":50,"@bob:b":50}}`, `{"users":{"@alice:a":50}}`), oldUser},
		{"demote a superior", change(`{"users":{"@alice:a":50,"@bob:b":51}}`, `{"users":{"@alice:a":50,"@bob:b":0}}`), oldUser},
		{"saturated levels do not wrap", change(base, `{"users":{"@alice:a":50,"@bob:b":"99999999999999999999999"}}`),
			"10.7.1 10.7.1 9.7.1 9.7.1 9.7.1 9.3 10.3"},
	})
}

// In versions 1 to 9 the first power levels may be malformed: what reads the
// malformed level refuses, nothing panics, nothing is allowed by accident.
func TestMalformedCurrentLevels(t *testing.T) {
	with := func(levels string, next func(r *room) *event.PDU) func(r *room) *event.PDU {
		return func(r *room) *event.PDU {
			r.put(creator, "m.room.power_levels", "", levels)
			return next(r)
		}
	}
	runRules(t, []ruleTest{
		{"users_default", with(`{"users_default":[]}`, func(r *room) *event.PDU { return r.message(bob) }), "8 8 7 7 7 7 8"},
		{"users", with(`{"users":7}`, func(r *room) *event.PDU { return r.message(bob) }), "8 8 7 7 7 7 8"},
		{"user", with(`{"users":{"@bob:b":{}}}`, func(r *room) *event.PDU { return r.message(bob) }), "8 8 7 7 7 7 8"},
		{"events", with(`{"events":7}`, func(r *room) *event.PDU { return r.message(bob) }), "8 8 7 7 7 7 8"},
		{"kick", with(`{"kick":"x","users":{"@alice:a":50}}`, func(r *room) *event.PDU { return r.memberEvent(alice, bob, "leave") }),
			"5.4.5 5.4.5 4.4.5 4.4.5 4.5.5 4.5.5 5.5.5"},
		{"ban", with(`{"ban":"x","users":{"@alice:a":50}}`, func(r *room) *event.PDU { return r.memberEvent(alice, bob, "ban") }),
			"5.5.3 5.5.3 4.5.3 4.5.3 4.6.3 4.6.3 5.6.3"},
		{"target", with(`{"users":{"@alice:a":50,"@bob:b":false}}`, func(r *room) *event.PDU { return r.memberEvent(alice, bob, "ban") }),
			"5.5.3 5.5.3 4.5.3 4.5.3 4.6.3 4.6.3 5.6.3"},
		{"invite", with(`{"invite":"x"}`, func(r *room) *event.PDU { return r.memberEvent(bob, carol, "invite") }),
			"5.3.5 5.3.5 4.3.5 4.3.5 4.4.5 4.4.5 5.4.5"},
		{"null is absent", with(`{"users_default":null,"users":{"@bob:b":null},"events_default":null}`, func(r *room) *event.PDU { return r.message(bob) }), "ok"},
	})
}

// MSC4289: creators.
func TestCreators(t *testing.T) {
	r := bareRoom(t, "12", content{"additional_creators": []id.User{alice}})
	r.member(creator, "join")
	r.member(alice, "join")
	r.member(bob, "join")
	if l := auth.PowerOf(bob, r.state); l != 0 {
		t.Errorf("without power levels @bob has %d", l)
	}
	r.put(creator, "m.room.power_levels", "", content{"users": content{string(bob): 1<<53 - 1}, "events_default": 1<<53 - 1})
	for u, want := range map[id.User]int64{creator: auth.Infinite, alice: auth.Infinite, bob: 1<<53 - 1, carol: 0} {
		if got := auth.PowerOf(u, r.state); got != want {
			t.Errorf("%s has %d, want %d", u, got, want)
		}
	}
	for _, test := range []struct {
		name string
		ev   *event.PDU
		want string
	}{
		{"creator sends above all levels", r.message(creator), "ok"},
		{"additional creator bans the highest", r.memberEvent(alice, bob, "ban"), "ok"},
		{"nobody kicks a creator", r.memberEvent(bob, alice, "leave"), "5.5.5"},
		{"creators are equals: no ban", r.memberEvent(creator, alice, "ban"), "5.6.3"},
		{"creators are equals: no kick", r.memberEvent(alice, creator, "leave"), "5.5.5"},
		{"creator removes the highest", r.stateEvent(creator, "m.room.power_levels", "", content{}), "ok"},
		{"no level for an additional creator", r.stateEvent(creator, "m.room.power_levels", "", content{"users": content{string(alice): 5}}), "10.4"},
		{"no level for the creator, not even in the first event", r.stateEvent(alice, "m.room.power_levels", "", content{"users": content{string(creator): 5}}), "10.4"},
	} {
		if got := ruleOf(t, auth.Check(test.ev, r.state, auth.Options{})); got != test.want {
			t.Errorf("%s: rule %s, want %s", test.name, got, test.want)
		}
	}
	if got := auth.Creators(r.create); len(got) != 2 || got[0] != creator || got[1] != alice {
		t.Errorf("creators: %v", got)
	}
}

// Before version 12 creators have 100, and only without power levels; to
// version 10 the content names them.
func TestPowerOfCreator(t *testing.T) {
	r := bareRoom(t, "10", content{"creator": bob})
	if a, b := auth.PowerOf(creator, r.state), auth.PowerOf(bob, r.state); a != 0 || b != 100 {
		t.Errorf("version 10: sender %d, creator %d", a, b)
	}
	r = bareRoom(t, "11", content{"creator": bob})
	if a, b := auth.PowerOf(creator, r.state), auth.PowerOf(bob, r.state); a != 100 || b != 0 {
		t.Errorf("version 11: sender %d, creator %d", a, b)
	}
	r.put(creator, "m.room.power_levels", "", content{})
	if l := auth.PowerOf(creator, r.state); l != 0 {
		t.Errorf("version 11 with power levels: %d", l)
	}
}

// "m.room.power_levels events accept values as strings" and "... as floats".
func TestLevelFormats(t *testing.T) {
	for raw, want := range map[string][3]int64{ // versions 1, 6, 10; -1 malformed
		`5`:                {5, 5, 5},
		`-5`:               {-5, -5, -5},
		`"100"`:            {100, 100, -1},
		`"000100"`:         {100, 100, -1},
		`"+100"`:           {100, 100, -1},
		`"-100"`:           {-100, -100, -1},
		`" 100 "`:          {100, 100, -1},
		`" -00100\t"`:      {-100, -100, -1},
		`"1.0"`:            {-1, -1, -1},
		`"+ 1"`:            {-1, -1, -1},
		`"+-1"`:            {-1, -1, -1},
		`""`:               {-1, -1, -1},
		`"0x10"`:           {-1, -1, -1},
		`"1_0"`:            {-1, -1, -1},
		`"NaN"`:            {-1, -1, -1},
		`5.114698E4`:       {51146, -1, -1},
		`-0.9`:             {0, -1, -1},
		`1e999`:            {-1, -1, -1},
		`9007199254740992`: {9007199254740992, -1, -1},
		`9007199254740991`: {9007199254740991, 9007199254740991, 9007199254740991},
		`true`:             {-1, -1, -1},
		`{}`:               {-1, -1, -1},
	} {
		for i, v := range []string{"1", "6", "10"} {
			rules, _ := roomversion.Get(v)
			levels, err := auth.ParsePowerLevels([]byte(`{"users":{"@a:b":`+raw+`}}`), rules)
			got, userErr := levels.User("@a:b")
			if (err != nil) != (userErr != nil) {
				t.Errorf("version %s: %s: %v, but %v", v, raw, err, userErr)
			}
			if userErr != nil {
				got = -1
			}
			if got != want[i] {
				t.Errorf("version %s: %s is %d, want %d", v, raw, got, want[i])
			}
		}
	}
}

func TestPowerLevelsDefaults(t *testing.T) {
	rules, _ := roomversion.Get("11")
	empty, err := auth.ParsePowerLevels([]byte(`{}`), rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*auth.PowerLevels{nil, new(auth.PowerLevels), empty} {
		for i, f := range []func() (int64, error){
			p.Invite, p.Kick, p.Ban, p.Redact,
			func() (int64, error) { return p.Required("x", true) },
			func() (int64, error) { return p.Required("x", false) },
			func() (int64, error) { return p.User("@a:b") },
			func() (int64, error) { return p.Notification("room") },
		} {
			if got, err := f(); err != nil || got != []int64{0, 50, 50, 50, 50, 0, 0, 50}[i] {
				t.Errorf("%d: %d, %v", i, got, err)
			}
		}
	}
}
