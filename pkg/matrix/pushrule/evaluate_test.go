package pushrule_test

import (
	"encoding/json"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
)

const me = "@me:example.org"

func ev(typ, content string, stateKey ...string) *event.PDU {
	p := &event.PDU{ID: "$e", RoomID: "!room:example.org", Type: typ, Sender: "@other:example.org", Content: []byte(content)}
	if len(stateKey) > 0 {
		p.StateKey = &stateKey[0]
	}
	return p
}

func context() pushrule.Context {
	return pushrule.Context{User: me, DisplayName: "Me", Members: 3, MayNotify: func(string) bool { return true }}
}

func tweaks(o pushrule.Outcome) string {
	var b strings.Builder
	for _, t := range o.Tweaks {
		b.WriteString(t.Name + "=" + string(t.Value) + " ")
	}
	return strings.TrimSpace(b.String())
}

// Section "Predefined Rules".
func TestDefaultRules(t *testing.T) {
	program := pushrule.Compile(pushrule.Defaults(me), me)
	two := func(c *pushrule.Context) { c.Members = 2 }
	powerless := func(c *pushrule.Context) { c.MayNotify = func(key string) bool { return key != "room" } }
	for _, c := range []struct {
		event             *event.PDU
		change            func(*pushrule.Context)
		rule, tweaks      string
		notify, highlight bool
	}{
		{event: ev("m.room.message", `{"body":"hi","msgtype":"m.text"}`), rule: ".m.rule.message", notify: true},
		{event: ev("m.room.message", `{"body":"hi","msgtype":"m.text"}`), change: two, rule: ".m.rule.room_one_to_one", notify: true, tweaks: `sound="default"`},
		{event: ev("m.room.encrypted", `{}`), rule: ".m.rule.encrypted", notify: true},
		{event: ev("m.room.encrypted", `{}`), change: two, rule: ".m.rule.encrypted_room_one_to_one", notify: true, tweaks: `sound="default"`},
		{event: ev("m.room.message", `{"body":"hi","msgtype":"m.notice"}`), rule: ".m.rule.suppress_notices"},
		{event: ev("m.room.member", `{"membership":"invite"}`, me), rule: ".m.rule.invite_for_me", notify: true, tweaks: `sound="default"`},
		{event: ev("m.room.member", `{"membership":"invite"}`, "@x:y"), rule: ".m.rule.member_event"},
		{event: ev("m.room.member", `{"membership":"join"}`, me), rule: ".m.rule.member_event"},
		{event: ev("m.room.message", `{"body":"hi","m.mentions":{"user_ids":["@x:y","`+me+`"]},"msgtype":"m.text"}`), rule: ".m.rule.is_user_mention", notify: true, highlight: true, tweaks: `sound="default" highlight=true`},
		{event: ev("m.room.message", `{"body":"hi","m.mentions":{"user_ids":"`+me+`"},"msgtype":"m.text"}`), rule: ".m.rule.message", notify: true},
		{event: ev("m.room.message", `{"body":"hi","m.mentions":{"room":true},"msgtype":"m.text"}`), rule: ".m.rule.is_room_mention", notify: true, highlight: true, tweaks: `highlight=true`},
		{event: ev("m.room.message", `{"body":"hi","m.mentions":{"room":true},"msgtype":"m.text"}`), change: powerless, rule: ".m.rule.message", notify: true},
		{event: ev("m.room.message", `{"body":"hi","m.mentions":{"room":"true"},"msgtype":"m.text"}`), rule: ".m.rule.message", notify: true},
		{event: ev("m.room.tombstone", `{}`, ""), rule: ".m.rule.tombstone", notify: true, highlight: true, tweaks: `highlight=true`},
		{event: ev("m.room.tombstone", `{}`), rule: ""},
		{event: ev("m.reaction", `{}`), rule: ".m.rule.reaction"},
		{event: ev("m.room.server_acl", `{}`, ""), rule: ".m.rule.room.server_acl"},
		{event: ev("m.room.message", `{"body":"* hi","m.relates_to":{"event_id":"$x","rel_type":"m.replace"},"msgtype":"m.text"}`), rule: ".m.rule.suppress_edits"},
		{event: ev("m.call.invite", `{}`), rule: ".m.rule.call", notify: true, tweaks: `sound="ring"`},
		{event: ev("m.room.topic", `{"topic":"Me"}`, ""), rule: ""},
	} {
		ctx := context()
		if c.change != nil {
			c.change(&ctx)
		}
		o := program.Evaluate(pushrule.NewView(c.event), ctx)
		if o.RuleID != c.rule || o.Matched != (c.rule != "") || o.Notify != c.notify || o.Highlight != c.highlight || tweaks(o) != c.tweaks {
			t.Errorf("%s %s: %+v, want %s", c.event.Type, c.event.Content, o, c.rule)
		}
		c.event.Sender = me
		if o := program.Evaluate(pushrule.NewView(c.event), ctx); o.Matched || o.Notify {
			t.Errorf("an event of the user's own: %+v", o)
		}
	}
}

func parse(t *testing.T, global string) pushrule.Ruleset {
	t.Helper()
	set, err := pushrule.Parse([]byte(`{"global":`+global+`}`), me)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// Section "Conditions".
func TestConditions(t *testing.T) {
	message := ev("m.room.message", `{"alt":["#a:b",1,null,true],"body":"Lunch with Me?","m.federate":true,"n":5,"nothing":null,"topic":"Lunch plans"}`)
	for condition, want := range map[string]bool{
		`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`:                true,
		`{"kind":"event_match","key":"content.topic","pattern":"lunch"}`:                 false,
		`{"kind":"event_match","key":"content.body","pattern":"LUNCH"}`:                  true,
		`{"kind":"event_match","key":"content.n","pattern":"*"}`:                         false,
		`{"kind":"event_match","key":"content.absent","pattern":"*"}`:                    false,
		`{"kind":"event_match","key":"room_id","pattern":"!room:*"}`:                     true,
		`{"kind":"event_match","key":"sender","pattern":"@other:example.org"}`:           true,
		`{"kind":"event_match","key":"event_id","pattern":"$e"}`:                         true,
		`{"kind":"event_match","key":"state_key","pattern":"*"}`:                         false,
		`{"kind":"event_match","key":"content","pattern":"*"}`:                           false,
		`{"kind":"event_match","key":"content.topic"}`:                                   false,
		`{"kind":"event_match","key":"content.topic","pattern":5}`:                       false,
		`{"kind":"event_property_is","key":"content.m\\.federate","value":true}`:         true,
		`{"kind":"event_property_is","key":"content.m\\.federate","value":"true"}`:       false,
		`{"kind":"event_property_is","key":"content.m\\.federate","value":1}`:            false,
		`{"kind":"event_property_is","key":"content.n","value":5}`:                       true,
		`{"kind":"event_property_is","key":"content.n","value":5.0}`:                     false,
		`{"kind":"event_property_is","key":"content.nothing","value":null}`:              true,
		`{"kind":"event_property_is","key":"content.absent","value":null}`:               false,
		`{"kind":"event_property_is","key":"content.alt","value":["#a:b"]}`:              false,
		`{"kind":"event_property_is","key":"content.topic","value":"\u004cunch plans"}`:  true,
		`{"kind":"event_property_is","key":"content.topic"}`:                             false,
		`{"kind":"event_property_contains","key":"content.alt","value":"#a:b"}`:          true,
		`{"kind":"event_property_contains","key":"content.alt","value":":b"}`:            false,
		`{"kind":"event_property_contains","key":"content.alt","value":null}`:            true,
		`{"kind":"event_property_contains","key":"content.alt","value":1}`:               true,
		`{"kind":"event_property_contains","key":"content.topic","value":"Lunch plans"}`: false,
		`{"kind":"contains_display_name"}`:                                               true,
		`{"kind":"room_member_count","is":"3"}`:                                          true,
		`{"kind":"room_member_count","is":"==3"}`:                                        true,
		`{"kind":"room_member_count","is":"<3"}`:                                         false,
		`{"kind":"room_member_count","is":"<=3"}`:                                        true,
		`{"kind":"room_member_count","is":">2"}`:                                         true,
		`{"kind":"room_member_count","is":">=4"}`:                                        false,
		`{"kind":"room_member_count","is":"=3"}`:                                         false,
		`{"kind":"room_member_count","is":"-3"}`:                                         false,
		`{"kind":"room_member_count","is":3}`:                                            false,
		`{"kind":"room_member_count"}`:                                                   false,
		`{"kind":"sender_notification_permission","key":"room"}`:                         true,
		`{"kind":"sender_notification_permission"}`:                                      false,
		`{"kind":"org.example.unknown","key":7}`:                                         false,
	} {
		set := parse(t, `{"override":[{"rule_id":"x","enabled":true,"default":false,"actions":["notify"],"conditions":[`+condition+`]}]}`)
		o := pushrule.Compile(set, me).Evaluate(pushrule.NewView(message), context())
		if (o.RuleID == "x") != want {
			t.Errorf("%s: %+v", condition, o)
		}
	}
}

// Section "Push Rules": override, content, room, sender, underride; the first rule of a kind wins; disabled ones never
// match; the master rule goes before all.
func TestOrder(t *testing.T) {
	message := ev("m.room.message", `{"body":"tea time","msgtype":"m.text"}`)
	rule := func(rest string) string { return `{"enabled":true,"default":false,"actions":[],` + rest + `}` }
	sets := []struct{ global, want string }{
		{`{"underride":[` + rule(`"rule_id":"u","conditions":[]`) + `]}`, "u"},
		{`{"underride":[` + rule(`"rule_id":"u"`) + `],"sender":[` + rule(`"rule_id":"@other:example.org"`) + `]}`, "@other:example.org"},
		{`{"room":[` + rule(`"rule_id":"!room:example.org"`) + `],"sender":[` + rule(`"rule_id":"@other:example.org"`) + `]}`, "!room:example.org"},
		{`{"room":[` + rule(`"rule_id":"!room:example.org"`) + `],"content":[` + rule(`"rule_id":"1","pattern":"TIME"`) + `,` + rule(`"rule_id":"2","pattern":"tea"`) + `]}`, "1"},
		{`{"content":[` + rule(`"rule_id":"1","pattern":"tim"`) + `,` + rule(`"rule_id":"2","pattern":"tea"`) + `]}`, "2"},
		{`{"content":[` + rule(`"rule_id":"2","pattern":"tea"`) + `],"override":[` + rule(`"rule_id":"o","conditions":[]`) + `]}`, "o"},
		{`{"override":[` + rule(`"rule_id":"o","conditions":[{"kind":"event_match","key":"type","pattern":"x"}]`) + `]}`, ".m.rule.message"},
		{`{"override":[{"rule_id":"o","enabled":false,"actions":[],"conditions":[]}]}`, ".m.rule.message"},
		{`{"override":[` + rule(`"rule_id":"o","conditions":[]`) + `,{"rule_id":".m.rule.master","enabled":true,"default":true,"actions":[],"conditions":[]}]}`, ".m.rule.master"},
		{`{"sender":[` + rule(`"rule_id":"@other:*"`) + `]}`, ".m.rule.message"},
	}
	for _, c := range sets {
		if o := pushrule.Compile(parse(t, c.global), me).Evaluate(pushrule.NewView(message), context()); o.RuleID != c.want {
			t.Errorf("%s: %+v, want %s", c.global, o, c.want)
		}
	}
}

// Sections "Actions" and "Historical Actions".
func TestActions(t *testing.T) {
	for actions, want := range map[string]string{
		`["notify"]`:      "true false ",
		`[]`:              "false false ",
		`["dont_notify"]`: "false false ",
		`["coalesce"]`:    "false false ",
		`["notify","coalesce",{"set_tweak":"sound","value":"a.wav"},{"set_tweak":"highlight","value":false},{"set_tweak":"flash"}]`: `true false sound="a.wav" highlight=false flash=null`,
		`["notify",{"set_tweak":"highlight"}]`: "true true highlight=true",
	} {
		set := parse(t, `{"override":[{"rule_id":"x","enabled":true,"actions":`+actions+`,"conditions":[]}]}`)
		o := pushrule.Compile(set, me).Evaluate(pushrule.NewView(ev("x", `{}`)), context())
		b, err := json.Marshal([]bool{o.Notify, o.Highlight})
		if err != nil {
			t.Fatal(err)
		}
		got := strings.NewReplacer("[", "", "]", "", ",", " ").Replace(string(b)) + " " + tweaks(o)
		if got != want {
			t.Errorf("%s: %s, want %s", actions, got, want)
		}
	}
}

// Users whose rules say the same of their owners share a class; for events that name nobody an outcome is that of all.
func TestClasses(t *testing.T) {
	compile := func(u id.User) *pushrule.Program { return pushrule.Compile(pushrule.Defaults(u), u) }
	a, b := compile("@a:x"), compile("@b:x")
	if a.Class() != b.Class() {
		t.Error("the default rules of two users differ in class")
	}
	set := pushrule.Defaults("@b:x")
	if err := set.SetEnabled("underride", ".m.rule.message", false); err != nil {
		t.Fatal(err)
	}
	if pushrule.Compile(set, "@b:x").Class() == a.Class() {
		t.Error("other rules have the same class")
	}
	for content, personal := range map[string]bool{
		`{"body":"a b"}`:                                  false,
		`{"body":"a","m.mentions":{}}`:                    false,
		`{"body":"a","m.mentions":{"user_ids":[]}}`:       false,
		`{"body":"a","m.mentions":{"user_ids":["@b:x"]}}`: true,
	} {
		v := pushrule.NewView(ev("m.room.message", content))
		for _, u := range []id.User{"@a:x", "@b:x"} {
			c := context()
			c.User = u
			one, other := a.Evaluate(v, c), b.Evaluate(v, c)
			if one.Personal != personal || one.RuleID != other.RuleID {
				t.Errorf("%s for %s: %+v, %+v", content, u, one, other)
			}
			if wantMention := personal && u == "@b:x"; one.Highlight != wantMention {
				t.Errorf("%s for %s: %+v", content, u, one)
			}
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	program, c := pushrule.Compile(pushrule.Defaults(me), me), context()
	v := pushrule.NewView(ev("m.room.message", `{"body":"`+strings.Repeat("hello ", 50)+`","msgtype":"m.text"}`))
	b.ReportAllocs()
	for b.Loop() {
		if o := program.Evaluate(v, c); !o.Notify {
			b.Fatal(o)
		}
	}
}

func BenchmarkView(b *testing.B) {
	program, c := pushrule.Compile(pushrule.Defaults(me), me), context()
	p := ev("m.room.message", `{"body":"`+strings.Repeat("hello ", 50)+`","msgtype":"m.text"}`)
	b.ReportAllocs()
	for b.Loop() {
		if o := program.Evaluate(pushrule.NewView(p), c); !o.Notify {
			b.Fatal(o)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	set := pushrule.Defaults(me)
	b.ReportAllocs()
	for b.Loop() {
		pushrule.Compile(set, me)
	}
}
