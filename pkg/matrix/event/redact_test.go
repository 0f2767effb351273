package event_test

import (
	"encoding/json"
	"strings"
	"testing"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/roomversion"
)

// everything is content with each key that some event type of some version keeps, and one that none does.
const everything = `{"aliases":["#a:b"],"allow":[],"ban":50,"creator":"@a:b","events":{},"events_default":0,"history_visibility":"shared",` +
	`"invite":0,"join_authorised_via_users_server":"@c:d","join_rule":"public","kick":50,"membership":"invite","redact":50,` +
	`"redacts":"$x","state_default":50,"third_party_invite":{"display_name":"x","signed":{"mxid":"@a:b"}},"users":{},"users_default":0,"x":1}`

// Room version pages, section "Redactions": what of the content survives, by the first version with these rules.
func TestRedactedContent(t *testing.T) {
	levels := "ban events events_default kick redact state_default users users_default"
	for _, c := range []struct {
		typ  string
		kept map[int]string
	}{
		{"m.room.member", map[int]string{1: "membership", 9: "join_authorised_via_users_server membership", 11: "join_authorised_via_users_server membership third_party_invite"}},
		{"m.room.create", map[int]string{1: "creator", 11: "*"}},
		{"m.room.join_rules", map[int]string{1: "join_rule", 8: "allow join_rule"}},
		{"m.room.power_levels", map[int]string{1: levels, 11: "ban events events_default invite kick redact state_default users users_default"}},
		{"m.room.aliases", map[int]string{1: "aliases", 6: ""}},
		{"m.room.history_visibility", map[int]string{1: "history_visibility"}},
		{"m.room.redaction", map[int]string{1: "", 11: "redacts"}},
		{"m.room.message", map[int]string{1: ""}},
		{"m.room.third_party_invite", map[int]string{1: ""}},
	} {
		kept := ""
		for i, v := range roomversion.Supported()[:12] {
			if k, ok := c.kept[i+1]; ok {
				kept = k
			}
			b, err := event.Redact([]byte(`{"content":`+everything+`,"type":"`+c.typ+`"}`), rulesOf(t, v))
			if err != nil {
				t.Fatal(err)
			}
			content := content(t, b)
			if kept == "*" {
				if string(content.Bytes()) != everything {
					t.Errorf("version %s: %s keeps %s", v, c.typ, content.Bytes())
				}
				continue
			}
			var names []string
			for _, m := range content {
				names = append(names, m.Key)
			}
			if got := strings.Join(names, " "); got != kept {
				t.Errorf("version %s: %s keeps %q, want %q", v, c.typ, got, kept)
			}
		}
	}
}

func content(t *testing.T, b []byte) canonjson.Object {
	t.Helper()
	o, err := canonjson.ParseObject(b)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := o.Get("content")
	c, err := canonjson.ParseObject(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Room version pages, section "Redactions": what survives beside the content.
func TestRedactedMembers(t *testing.T) {
	in := `{"age":1,"auth_events":[],"content":{},"depth":1,"event_id":"$a:b","hashes":{},"membership":"join","origin":"b",` +
		`"origin_server_ts":1,"prev_events":[],"prev_state":[],"redacts":"$x","replaces_state":"$y","room_id":"!a:b","sender":"@a:b","signatures":{},` +
		`"state_key":"","type":"x","unsigned":{}}`
	old := `{"auth_events":[],"content":{},"depth":1,"event_id":"$a:b","hashes":{},"membership":"join","origin":"b",` +
		`"origin_server_ts":1,"prev_events":[],"prev_state":[],"room_id":"!a:b","sender":"@a:b","signatures":{},"state_key":"","type":"x"}`
	from11 := `{"auth_events":[],"content":{},"depth":1,"event_id":"$a:b","hashes":{},` +
		`"origin_server_ts":1,"prev_events":[],"room_id":"!a:b","sender":"@a:b","signatures":{},"state_key":"","type":"x"}`
	for i, v := range roomversion.Supported()[:12] {
		want := old
		if i+1 >= 11 {
			want = from11
		}
		got, err := event.Redact([]byte(in), rulesOf(t, v))
		if err != nil || string(got) != want {
			t.Errorf("version %s: %s, %v; want %s", v, got, err, want)
		}
	}
}

// Room version 11, section "Redactions": third_party_invite stays as far as it was signed.
func TestRedactedThirdPartyInvite(t *testing.T) {
	for in, want := range map[string]string{
		`{"third_party_invite":{"display_name":"x","signed":{"a":1}}}`: `{"third_party_invite":{"signed":{"a":1}}}`,
		`{"third_party_invite":{"display_name":"x"}}`:                  `{"third_party_invite":{}}`,
		`{"third_party_invite":"x"}`:                                   `{}`,
	} {
		got, err := event.Redact([]byte(`{"content":`+in+`,"type":"m.room.member"}`), rulesOf(t, "11"))
		if err != nil || string(content(t, got).Bytes()) != want {
			t.Errorf("%s became %s, %v", in, got, err)
		}
	}
}

// A redacted event is redacted already, and content that is no object does not stop it.
func TestRedactTwice(t *testing.T) {
	for _, v := range roomversion.Supported() {
		once, err := event.Redact([]byte(`{"content":`+everything+`,"type":"m.room.member"}`), rulesOf(t, v))
		if err != nil {
			t.Fatal(err)
		}
		twice, err := event.Redact(once, rulesOf(t, v))
		if err != nil || string(once) != string(twice) || !json.Valid(once) {
			t.Errorf("version %s: %s became %s, %v", v, once, twice, err)
		}
	}
}
