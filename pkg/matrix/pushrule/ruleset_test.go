package pushrule_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"hanse/pkg/matrix/pushrule"
)

// Section "Predefined Rules", of the rules with the most in them.
func TestDefaultsJSON(t *testing.T) {
	set := pushrule.Defaults(me)
	for _, c := range []struct{ kind, id, want string }{
		{"override", ".m.rule.master", `{"rule_id":".m.rule.master","default":true,"enabled":false,"actions":[],"conditions":[]}`},
		{"override", ".m.rule.invite_for_me", `{"rule_id":".m.rule.invite_for_me","default":true,"enabled":true,"actions":["notify",{"set_tweak":"sound","value":"default"}],"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.member"},{"kind":"event_match","key":"content.membership","pattern":"invite"},{"kind":"event_match","key":"state_key","pattern":"@me:example.org"}]}`},
		{"override", ".m.rule.is_user_mention", `{"rule_id":".m.rule.is_user_mention","default":true,"enabled":true,"actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}],"conditions":[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"@me:example.org"}]}`},
		{"override", ".m.rule.is_room_mention", `{"rule_id":".m.rule.is_room_mention","default":true,"enabled":true,"actions":["notify",{"set_tweak":"highlight"}],"conditions":[{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},{"kind":"sender_notification_permission","key":"room"}]}`},
		{"override", ".m.rule.tombstone", `{"rule_id":".m.rule.tombstone","default":true,"enabled":true,"actions":["notify",{"set_tweak":"highlight"}],"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.tombstone"},{"kind":"event_match","key":"state_key","pattern":""}]}`},
		{"underride", ".m.rule.room_one_to_one", `{"rule_id":".m.rule.room_one_to_one","default":true,"enabled":true,"actions":["notify",{"set_tweak":"sound","value":"default"}],"conditions":[{"kind":"room_member_count","is":"2"},{"kind":"event_match","key":"type","pattern":"m.room.message"}]}`},
	} {
		rule, err := set.Find(c.kind, c.id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(rule)
		if err != nil || string(got) != c.want {
			t.Errorf("%s, %v\nwant %s", got, err, c.want)
		}
	}
	var order []string
	for _, r := range append(set.Override, set.Underride...) {
		order = append(order, strings.TrimPrefix(r.ID, ".m.rule."))
	}
	want := "master .org.matrix.msc4028.encrypted_event suppress_notices invite_for_me member_event is_user_mention is_room_mention tombstone reaction room.server_acl " +
		".org.matrix.msc3930.rule.poll_response suppress_edits " +
		"call encrypted_room_one_to_one room_one_to_one message encrypted " +
		".org.matrix.msc3930.rule.poll_start_one_to_one .org.matrix.msc3930.rule.poll_start " +
		".org.matrix.msc3930.rule.poll_end_one_to_one .org.matrix.msc3930.rule.poll_end"
	if got := strings.Join(order, " "); got != want {
		t.Errorf("rules %s", got)
	}
}

func ids(rules []pushrule.Rule) string {
	var b []string
	for _, r := range rules {
		if !r.Default {
			b = append(b, r.ID)
		}
	}
	return strings.Join(b, " ")
}

func notify() []json.RawMessage { return []json.RawMessage{pushrule.Notify} }

// PUT /pushrules/global/{kind}/{ruleId}.
func TestPut(t *testing.T) {
	set := pushrule.Defaults(me)
	put := func(id, before, after string) error {
		return set.Put("override", pushrule.Rule{ID: id, Actions: notify()}, before, after)
	}
	for _, c := range []struct{ id, before, after, want string }{
		{"a", "", "", "a"},
		{"b", "", "", "b a"},
		{"c", "a", "", "b c a"},
		{"d", "", "a", "b c a d"},
		{"e", "b", "a", "e b c a d"},
		{"a", "", "", "e b c a d"},
		{"a", "", "e", "e a b c d"},
		{"e", "d", "", "a b c e d"},
	} {
		if err := put(c.id, c.before, c.after); err != nil {
			t.Fatal(err)
		}
		if got := ids(set.Override); got != c.want {
			t.Fatalf("after %+v: %s", c, got)
		}
	}
	if set.Override[0].ID != ".m.rule.master" || set.Override[7].ID != ".m.rule.suppress_notices" {
		t.Errorf("the user's rules are not between the master rule and the server's: %+v", set.Override)
	}
	for anchor, want := range map[string]error{"nobody": pushrule.ErrNotFound, ".m.rule.master": pushrule.ErrInvalid, ".m.rule.tombstone": pushrule.ErrInvalid} {
		if err := put("x", anchor, ""); !errors.Is(err, want) {
			t.Errorf("before %s: %v", anchor, err)
		}
		if err := put("x", "", anchor); !errors.Is(err, want) {
			t.Errorf("after %s: %v", anchor, err)
		}
	}
	if got := ids(set.Override); got != "a b c e d" {
		t.Errorf("a refused rule changed the set: %s", got)
	}
	// A rule stays off when it is written again.
	if err := set.SetEnabled("override", "a", false); err != nil {
		t.Fatal(err)
	}
	if err := put("a", "", ""); err != nil {
		t.Fatal(err)
	}
	if r, err := set.Find("override", "a"); err != nil || r.Enabled {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPutRefuses(t *testing.T) {
	pattern := strings.Repeat("a", 2000)
	for name, c := range map[string]struct {
		kind string
		rule pushrule.Rule
	}{
		"kind":              {"overrides", pushrule.Rule{ID: "a", Actions: notify()}},
		"no id":             {"room", pushrule.Rule{Actions: notify()}},
		"id of the server":  {"override", pushrule.Rule{ID: ".m.rule.mine", Actions: notify()}},
		"slash":             {"override", pushrule.Rule{ID: "a/b", Actions: notify()}},
		"backslash":         {"override", pushrule.Rule{ID: `a\b`, Actions: notify()}},
		"no actions":        {"override", pushrule.Rule{ID: "a"}},
		"unknown action":    {"override", pushrule.Rule{ID: "a", Actions: []json.RawMessage{json.RawMessage(`"shout"`)}}},
		"action of a kind":  {"override", pushrule.Rule{ID: "a", Actions: []json.RawMessage{json.RawMessage(`5`)}}},
		"no tweak":          {"override", pushrule.Rule{ID: "a", Actions: []json.RawMessage{json.RawMessage(`{"value":1}`)}}},
		"no pattern":        {"content", pushrule.Rule{ID: "a", Actions: notify()}},
		"long pattern":      {"content", pushrule.Rule{ID: "a", Actions: notify(), Pattern: pattern}},
		"question marks":    {"content", pushrule.Rule{ID: "a", Actions: notify(), Pattern: strings.Repeat("?", 65)}},
		"long condition":    {"override", pushrule.Rule{ID: "a", Actions: notify(), Conditions: []pushrule.Condition{{Kind: "event_match", Key: "type", Pattern: &pattern}}}},
		"condition no kind": {"underride", pushrule.Rule{ID: "a", Actions: notify(), Conditions: []pushrule.Condition{{Key: "type"}}}},
	} {
		set := pushrule.Defaults(me)
		if err := set.Put(c.kind, c.rule, "", ""); !errors.Is(err, pushrule.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	var c pushrule.Condition
	for _, bad := range []string{`{}`, `{"kind":null}`, `{"kind":1}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &c); err == nil {
			t.Errorf("%s is a condition", bad)
		}
	}
}

// DELETE, PUT .../enabled, PUT .../actions.
func TestChanges(t *testing.T) {
	set := pushrule.Defaults(me)
	if err := set.Put("room", pushrule.Rule{ID: "!a:b", Actions: []json.RawMessage{}, Pattern: "x"}, "", ""); err != nil {
		t.Fatal(err)
	}
	if r, err := set.Find("room", "!a:b"); err != nil || r.Pattern != "" || !r.Enabled || r.Default {
		t.Errorf("%+v, %v", r, err)
	}
	for name, got := range map[string]error{
		"delete":          set.Delete("room", "!x:b"),
		"enabled":         set.SetEnabled("room", "!x:b", true),
		"actions":         set.SetActions("room", "!x:b", notify()),
		"in another kind": set.Delete("sender", "!a:b"),
	} {
		if !errors.Is(got, pushrule.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, got)
		}
	}
	for name, got := range map[string]error{
		"delete of the server's": set.Delete("override", ".m.rule.master"),
		"kind":                   set.Delete("rooms", "!a:b"),
		"actions":                set.SetActions("room", "!a:b", nil),
	} {
		if !errors.Is(got, pushrule.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, got)
		}
	}
	if err := set.SetActions("override", ".m.rule.tombstone", []json.RawMessage{}); err != nil {
		t.Error(err)
	}
	if err := set.SetEnabled("override", ".m.rule.master", true); err != nil {
		t.Error(err)
	}
	if err := set.Delete("room", "!a:b"); err != nil || len(set.Room) != 0 {
		t.Errorf("%+v, %v", set.Room, err)
	}
	content, err := set.ContentJSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := pushrule.Parse(content, me)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := again.ContentJSON(); err != nil || string(back) != string(content) {
		t.Errorf("%s came back as %s, %v", content, back, err)
	}
}

// What was stored before the server's rules changed: its new ones appear, its old ones go, and what the user made of the
// others stays. Conditions that nobody knows keep their fields.
func TestParseStored(t *testing.T) {
	set := parse(t, `{"override":[{"rule_id":".m.rule.contains_display_name","default":true,"enabled":true,"actions":["notify"],"conditions":[]},`+
		`{"rule_id":".m.rule.tombstone","default":true,"enabled":false,"actions":[],"conditions":[{"kind":"other"}]},`+
		`{"rule_id":"mine","default":false,"enabled":true,"actions":["notify"],"conditions":[{"kind":"org.example.new","room":5}]}]}`)
	if _, err := set.Find("override", ".m.rule.contains_display_name"); !errors.Is(err, pushrule.ErrNotFound) {
		t.Errorf("a rule of the past: %v", err)
	}
	r, err := set.Find("override", ".m.rule.tombstone")
	if err != nil || r.Enabled || len(r.Actions) != 0 || len(r.Conditions) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := set.Find("underride", ".m.rule.call"); err != nil {
		t.Error(err)
	}
	b, err := set.ContentJSON()
	if err != nil || !strings.Contains(string(b), `{"kind":"org.example.new","room":5}`) {
		t.Errorf("%s, %v", b, err)
	}
	if _, err := pushrule.Parse([]byte(`{"global":[]}`), me); err == nil {
		t.Error("a list is a set of rules")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"global":{"override":[{"rule_id":"a","enabled":true,"actions":["notify",{"set_tweak":"x"}],"conditions":[{"kind":"event_match","key":"content.body","pattern":"*a?"}]}]}}`))
	f.Add([]byte(`{"global":{"content":[{"rule_id":"a","enabled":true,"pattern":"x"}],"underride":[{"conditions":[{"kind":"event_property_is","key":"a\\","value":null}]}]}}`))
	p := ev("m.room.message", `{"body":"a b","list":[1,"x"]}`)
	f.Fuzz(func(t *testing.T, in []byte) {
		set, err := pushrule.Parse(in, me)
		if err != nil {
			return
		}
		b, err := set.ContentJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := pushrule.Parse(b, me)
		if err != nil {
			t.Fatalf("%s is written as %s: %v", in, b, err)
		}
		one, other := pushrule.Compile(set, me), pushrule.Compile(again, me)
		if one.Class() != other.Class() {
			t.Fatalf("%s and %s differ in class", in, b)
		}
		one.Evaluate(pushrule.NewView(p), context())
	})
}
