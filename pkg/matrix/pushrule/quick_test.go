package pushrule_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/pushrule"
)

// randomEvent is an event that default rules may look at.
func randomEvent(rnd *rand.Rand) *event.PDU {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	typ := pick("m.room.message", "M.room.Message", "m.room.encrypted", "m.room.member", "m.reaction", "m.room.tombstone", "m.room.server_acl",
		"m.call.invite", "org.matrix.msc3381.poll.start", "org.matrix.msc3381.poll.response", "org.matrix.msc3381.poll.end", "m.room.topic", "x")
	content := `{` + pick(`"body":"hi"`, `"body":"`+me+`"`, `"body":7`) + pick(``, `,"m.mentions":{"room":true}`, `,"m.mentions":{"user_ids":["@x:y"]}`, `,"m.mentions":[]`) +
		pick(``, `,"m.relates_to":{"event_id":"$x","rel_type":"m.replace"}`, `,"m.relates_to":{"event_id":"$x","rel_type":"m.thread"}`, `,"m.relates_to":5`) +
		pick(``, `,"membership":"invite"`) + pick(``, `,"msgtype":"m.text"`, `,"msgtype":"m.notice"`, `,"msgtype":"M.NOTICE"`, `,"msgtype":["m.notice"]`) + `}`
	if rnd.IntN(2) == 0 {
		return ev(typ, content, pick("", "", "x", "@x:y"))
	}
	return ev(typ, content)
}

// NotifiesAll is the literal evaluation of the default rules for somebody whom the event does not name.
func TestNotifiesAll(t *testing.T) {
	program := pushrule.Compile(pushrule.Defaults(me), me)
	rnd := rand.New(rand.NewPCG(3, 4))
	seen := make(map[string]int)
	for range 20_000 {
		e, may := randomEvent(rnd), rnd.IntN(2) == 0
		c := pushrule.Context{Members: 2 + rnd.IntN(2), MayNotify: func(string) bool { return may }}
		want := program.Evaluate(pushrule.NewView(e), c)
		mentions := strings.Contains(string(e.Content), `"room":true`) && may
		if got := pushrule.NotifiesAll(e, mentions); got != want.Notify {
			t.Fatalf("%s %s, may notify: %v: %v, want %+v", e.Type, e.Content, may, got, want)
		}
		c.User = "@nobody:else"
		if other := program.Evaluate(pushrule.NewView(e), c); other.RuleID != want.RuleID {
			t.Fatalf("%s %s: %s for a user, %s for nobody", e.Type, e.Content, other.RuleID, want.RuleID)
		}
		c.User, c.MayNotify = "@x:y", nil
		named := strings.Contains(string(e.Content), `"user_ids":["@x:y"]`)
		if got := program.Evaluate(pushrule.NewView(e), c); got.RuleID == ".m.rule.is_user_mention" != (named && pushrule.MayMention(e)) {
			t.Fatalf("%s %s: %s for whom it names", e.Type, e.Content, got.RuleID)
		}
		seen[want.RuleID]++
	}
	for _, r := range append(pushrule.Defaults(me).Override, pushrule.Defaults(me).Underride...) {
		if r.Enabled && seen[r.ID] == 0 && !strings.Contains(r.ID, "user_mention") && !strings.Contains(r.ID, "invite_for_me") {
			t.Errorf("%s never matched", r.ID)
		}
	}
}

// MSC3930: polls notify when they begin and end, votes do not. MSC4028: encrypted events notify if the client turns the rule on,
// also in a room where only mentions do, but not in one that is muted.
func TestRulesOfProposals(t *testing.T) {
	set := pushrule.Defaults(me)
	rule := func(set pushrule.Ruleset, e *event.PDU, members int) string {
		c := context()
		c.Members = members
		o := pushrule.Compile(set, me).Evaluate(pushrule.NewView(e), c)
		return fmt.Sprint(o.RuleID, o.Notify, tweaks(o))
	}
	poll := func(what string) *event.PDU { return ev("org.matrix.msc3381.poll."+what, `{}`) }
	for got, want := range map[string]string{
		rule(set, poll("start"), 3):    ".org.matrix.msc3930.rule.poll_start" + "true",
		rule(set, poll("start"), 2):    ".org.matrix.msc3930.rule.poll_start_one_to_one" + `true` + `sound="default"`,
		rule(set, poll("end"), 3):      ".org.matrix.msc3930.rule.poll_end" + "true",
		rule(set, poll("end"), 2):      ".org.matrix.msc3930.rule.poll_end_one_to_one" + `true` + `sound="default"`,
		rule(set, poll("response"), 2): ".org.matrix.msc3930.rule.poll_response" + "false",
	} {
		if strings.ReplaceAll(got, " ", "") != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	encrypted := ev("m.room.encrypted", `{}`)
	quiet := pushrule.Rule{ID: "!room:example.org", Actions: notify()[:0]}
	if err := set.Put("room", quiet, "", ""); err != nil {
		t.Fatal(err)
	}
	if got := rule(set, encrypted, 3); got != "!room:example.org false " && got != "!room:example.orgfalse" {
		t.Errorf("off: %q", got)
	}
	if err := set.SetEnabled("override", pushrule.EncryptedEventRule, true); err != nil {
		t.Fatal(err)
	}
	if got := rule(set, encrypted, 3); !strings.HasPrefix(got, pushrule.EncryptedEventRule) || !strings.Contains(got, "true") {
		t.Errorf("on: %q", got)
	}
	key, pattern := "room_id", "!room:example.org"
	if err := set.Put("override", pushrule.Rule{ID: "mute", Actions: notify()[:0], Conditions: []pushrule.Condition{{Kind: "event_match", Key: key, Pattern: &pattern}}}, "", ""); err != nil {
		t.Fatal(err)
	}
	if got := rule(set, encrypted, 3); !strings.HasPrefix(got, "mute") {
		t.Errorf("muted: %q", got)
	}
}

// Rules made to be slow use up what the rules of a user may cost: none behind them matches any more. The rules of the server do.
func TestSlowRules(t *testing.T) {
	body := strings.Repeat("a", 60<<10)
	e := ev("m.room.message", `{"body":"`+body+`","list":[`+strings.TrimSuffix(strings.Repeat(`"x",`, 500), ",")+`],"msgtype":"m.text"}`)
	for name, condition := range map[string]string{
		"question marks": `{"kind":"event_match","key":"content.body","pattern":"` + strings.Repeat("a?", 32) + `b"}`,
		"stars":          `{"kind":"event_match","key":"content.body","pattern":"` + strings.Repeat("*a?", 32) + `b"}`,
		"paths":          `{"kind":"event_match","key":"content.%d","pattern":"x"}`,
		"lists":          `{"kind":"event_property_contains","key":"content.list","value":%d}`,
		"names":          `{"kind":"contains_display_name"}`,
	} {
		var rules []string
		for i := range 2500 {
			c := condition
			if strings.Contains(c, "%d") {
				c = fmt.Sprintf(c, i)
			}
			rules = append(rules, fmt.Sprintf(`{"rule_id":"r%d","enabled":true,"default":false,"actions":["notify"],"conditions":[%s]}`, i, c))
		}
		rules = append(rules, `{"rule_id":"last","enabled":true,"default":false,"actions":["notify"],"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.message"}]}`)
		program := pushrule.Compile(parse(t, `{"override":[`+strings.Join(rules, ",")+`]}`), me)
		c := context()
		c.DisplayName = "aaab"
		if o := program.Evaluate(pushrule.NewView(e), c); o.RuleID != ".m.rule.message" {
			t.Errorf("%s: %+v", name, o)
		}
	}
}
