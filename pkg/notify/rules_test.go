package notify_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/notify"
)

const me, room = "@me:example.org", "!room:example.org"

// randomRules are the content of m.push_rules of somebody who may have muted rooms, or everything, or has other rules.
func randomRules(rnd *rand.Rand) string {
	some := func(of ...string) string {
		var kept []string
		for _, r := range of {
			if rnd.IntN(3) == 0 {
				kept = append(kept, r)
			}
		}
		return "[" + strings.Join(kept, ",") + "]"
	}
	rule := func(id, actions, rest string) string {
		return fmt.Sprintf(`{"rule_id":%q,"enabled":%v,"default":false,"actions":[%s]%s}`, id, rnd.IntN(4) > 0, actions, rest)
	}
	inRoom := func(room string) string {
		return `,"conditions":[{"kind":"event_match","key":"room_id","pattern":"` + room + `"}]`
	}
	master := fmt.Sprintf(`{"rule_id":".m.rule.master","enabled":%v,"default":true,"actions":[],"conditions":[]}`, rnd.IntN(4) == 0)
	own := ""
	if rnd.IntN(4) == 0 {
		own = `,"content":` + some(rule("word", `"notify",{"set_tweak":"highlight"}`, `,"pattern":"hi"`)) + `,"sender":` + some(rule("@other:example.org", "", ""))
	}
	return `{"global":{"override":` + some(master, rule("mute", "", inRoom(room)), rule("other", "", inRoom("!other:example.org"))) +
		`,"room":` + some(rule(room, "", ""), rule("!other:example.org", `"dont_notify"`, "")) + own + `}}`
}

func randomEvent(rnd *rand.Rand) *event.PDU {
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	e := &event.PDU{ID: "$e", RoomID: room, Sender: id.User(pick("@other:example.org", "@bad:example.org", me)),
		Type: pick("m.room.message", "m.room.encrypted", "m.room.member", "m.reaction", "m.room.tombstone", "org.matrix.msc3381.poll.start", "x"),
		Content: []byte(`{"body":"` + pick("hi", "there") + `"` + pick("", `,"m.mentions":{"room":true}`, `,"m.mentions":{"user_ids":["`+me+`"]}`) +
			pick("", `,"msgtype":"m.notice"`) + `}`)}
	if rnd.IntN(3) == 0 {
		key := pick("", me)
		e.StateKey = &key
	}
	return e
}

// What rules for whole rooms cut out of the outcome of the default rules is what the literal evaluation of all rules says, for random
// rules and events. Nobody is notified by users whom they ignore.
func TestJudgeIsLiteral(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	cut, own := 0, 0
	for range 4000 {
		content := randomRules(rnd)
		rules := notify.NewRules(me, nil, []byte(content), []byte(`{"ignored_users":{"@bad:example.org":{}}}`))
		set, err := pushrule.Parse([]byte(content), me)
		if err != nil {
			t.Fatal(err)
		}
		e, in := randomEvent(rnd), &notify.Room{Members: 3}
		want := pushrule.Compile(set, me).Evaluate(pushrule.NewView(e), pushrule.Context{User: me, Members: 3, MayNotify: func(key string) bool { return in.MayNotify(e.Sender, key) }})
		if e.Sender == "@bad:example.org" {
			want = pushrule.Outcome{}
		}
		got := rules.Judge(pushrule.NewView(e), e, in)
		if got.Notify != want.Notify || got.Highlight != want.Highlight || len(got.Tweaks) != len(want.Tweaks) {
			t.Fatalf("%s %s by %s: %+v, want %+v by %s", e.Type, e.Content, e.Sender, got, want, content)
		}
		named := strings.Contains(string(e.Content), me) || e.StateKey != nil && *e.StateKey == me
		if !rules.Own() && !named && e.Sender == "@other:example.org" {
			cut++
			if all := rules.Level(room).Cut(notify.JudgeAll(pushrule.NewView(e), e, in)); all.Notify != want.Notify || all.Highlight != want.Highlight {
				t.Fatalf("%s %s: %+v for all, want %+v by %s", e.Type, e.Content, all, want, content)
			}
		}
		if rules.Own() && !named && e.Sender == "@other:example.org" {
			own++
			if o := rules.JudgeOthers(pushrule.NewView(e), e, in); o.Notify != want.Notify {
				t.Fatalf("%s %s: %+v for the class, want %+v by %s", e.Type, e.Content, o, want, content)
			}
		}
	}
	if cut < 200 || own < 50 {
		t.Errorf("%d and %d cases show little", cut, own)
	}
}

// Rules that did not change are not read again.
func TestWith(t *testing.T) {
	muted := []byte(`{"global":{"room":[{"rule_id":"!room:example.org","enabled":true,"actions":[]}]}}`)
	r := notify.NewRules(me, nil, muted, nil)
	if r = r.With(nil, false, []byte(`{"ignored_users":{"@bad:example.org":{}}}`), true); r.Level(room) != notify.Mentions || !r.Ignored.Has("@bad:example.org") {
		t.Errorf("%+v", r)
	}
	if r = r.With(nil, true, nil, false); r.Level(room) != notify.All || !r.Ignored.Has("@bad:example.org") {
		t.Errorf("%+v", r)
	}
}
