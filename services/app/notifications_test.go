package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
)

// notifications reads all pages of the list, and checks their order.
func (p *person) notifications(limit int, only string) *reply {
	p.t.Helper()
	var last *reply
	var events []string
	seen, from := make(map[string]bool), ""
	for range 50 {
		r := p.do("GET", fmt.Sprintf("%s/notifications?limit=%d&only=%s&from=%s", v3, limit, only, url.QueryEscape(from)), nil).ok()
		before := int64(1 << 60)
		for _, n := range r.get("notifications").Array() {
			event := n.Get("event.event_id").String()
			if ts := n.Get("ts").Int(); seen[event] || ts > before || ts != n.Get("event.origin_server_ts").Int() {
				p.t.Errorf("twice or in no order: %s", n.Raw)
			} else {
				before = ts
			}
			seen[event] = true
			events = append(events, n.Raw)
		}
		if last, from = r, r.str("next_token"); from == "" {
			break
		}
	}
	if from != "" {
		p.t.Error("the list does not end")
	}
	raw := []byte(`{"notifications":[`)
	for i, e := range events {
		if i > 0 {
			raw = append(raw, ',')
		}
		raw = append(raw, e...)
	}
	return &reply{t: p.t, what: last.what, status: last.status, raw: append(raw, `]}`...)}
}

// Client-server API, "Listing Notifications".
func testNotifications(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	loud, quiet, mute := anna.create(object{"preset": "public_chat"}), anna.create(object{"preset": "public_chat"}), anna.create(object{"preset": "public_chat"})
	anna.say(loud, "before the join")
	for _, room := range []string{loud, quiet, mute} {
		bert.join(room)
	}
	rules := v3 + "/pushrules/global/"
	bert.do("PUT", rules+"room/"+quiet, object{"actions": list{}}).ok()
	bert.do("PUT", rules+"override/"+mute, object{"actions": list{}, "conditions": list{object{"kind": "event_match", "key": "room_id", "pattern": mute}}}).ok()
	var plain []string
	for i := range 5 {
		plain = append(plain, anna.say(loud, fmt.Sprint(i)))
	}
	anna.say(quiet, "not heard")
	bert.say(loud, "one's own")
	gone := anna.say(loud, "gone")
	anna.do("PUT", in(loud, "redact", gone, "r"), object{}).ok()
	anna.send(loud, "m.room.message", object{"msgtype": "m.notice", "body": "notices do not notify"})
	loudMention, quietMention := anna.send(loud, "m.room.message", mention(bert.id)), anna.send(quiet, "m.room.message", mention(bert.id))
	everybody := anna.send(quiet, "m.room.message", object{"msgtype": "m.text", "body": "all", "m.mentions": object{"room": true}})
	anna.send(mute, "m.room.message", mention(bert.id))
	bert.do("POST", in(loud, "receipt", "m.read", plain[2]), object{}).ok()

	all := append(slices.Clone(plain), loudMention, quietMention, everybody)
	for _, limit := range []int{3, 100} {
		r := bert.notifications(limit, "")
		same(t, fmt.Sprint("pages of ", limit), slices.Sorted(slices.Values(r.texts("notifications.#.event.event_id"))), slices.Sorted(slices.Values(all)))
		for _, n := range r.get("notifications").Array() {
			event := n.Get("event.event_id").String()
			if want := slices.Contains(plain[:3], event); n.Get("read").Bool() != want {
				t.Errorf("read, want %v: %s", want, n.Raw)
			}
			room := loud
			if event == quietMention || event == everybody {
				room = quiet
			}
			if n.Get("room_id").String() != room || n.Get("event.room_id").Exists() || n.Get("actions.0").String() != "notify" {
				t.Errorf("%s", n.Raw)
			}
			if highlight := !slices.Contains(plain, event); n.Get(`actions.#(set_tweak=="highlight")`).Exists() != highlight {
				t.Errorf("highlight, want %v: %s", highlight, n.Raw)
			}
		}
	}
	mentions := slices.Sorted(slices.Values([]string{loudMention, quietMention, everybody}))
	same(t, "highlights", slices.Sorted(slices.Values(bert.notifications(2, "highlight").texts("notifications.#.event.event_id"))), mentions)
	// Rules of one's own look at each event.
	bert.do("PUT", rules+"content/herring", object{"pattern": "herring", "actions": list{"notify", object{"set_tweak": "highlight"}}}).ok()
	herring := anna.send(loud, "m.room.message", object{"msgtype": "m.text", "body": "fresh herring"})
	same(t, "a keyword", slices.Sorted(slices.Values(bert.notifications(2, "highlight").texts("notifications.#.event.event_id"))),
		slices.Sorted(slices.Values(append(slices.Clone(mentions), herring))))
	if got := len(bert.notifications(2, "").texts("notifications.#.event.event_id")); got != len(all)+1 {
		t.Errorf("with rules of one's own: %d", got)
	}
	bert.do("PUT", v3+"/user/"+bert.id+"/account_data/m.ignored_user_list", object{"ignored_users": object{anna.id: object{}}}).ok()
	same(t, "ignored", bert.notifications(10, "").texts("notifications.#.event.event_id"), nil)
	bert.do("PUT", v3+"/user/"+bert.id+"/account_data/m.ignored_user_list", object{"ignored_users": object{}}).ok()
	bert.do("POST", in(quiet, "leave"), object{}).ok()
	if got := len(bert.notifications(10, "").texts("notifications.#.event.event_id")); got != len(all)-1 {
		t.Errorf("of a room that was left: %d", got)
	}
	bert.do("PUT", rules+"override/.m.rule.master/enabled", object{"enabled": true}).ok()
	same(t, "everything is off", bert.notifications(10, "").texts("notifications.#.event.event_id"), nil)
	for _, bad := range []string{"limit=x", "limit=-1", "from=x", "from=n1_2_3", "from=n1_2_3_4x", "from=n1_99999999999_3_4", "from=n%2B1_2_3_4"} {
		bert.do("GET", v3+"/notifications?"+bad, nil).fails(400, "M_INVALID_PARAM")
	}
	same(t, "none wanted", bert.do("GET", v3+"/notifications?limit=0", nil).ok().texts("notifications"), nil)
}
