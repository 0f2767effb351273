package event_test

import (
	"encoding/json"
	"testing"

	"hanse/pkg/matrix/event"
)

// Client-server API, sections "Room event format" and "Stripped state".
func TestClientForms(t *testing.T) {
	d := draft("10")
	p, err := event.Build(d, rulesOf(t, "10"), "domain", testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	const content = `{"displayname":"A <b>","join_authorised_via_users_server":"@b:other","membership":"join"}`
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{p.ClientJSON(nil, nil, false), `{"content":` + content + `,"event_id":"` + string(p.ID) + `","origin_server_ts":12345,"sender":"@a:domain","state_key":"@a:domain","type":"m.room.member"}`},
		{p.ClientJSON([]byte("["), []byte(`{"age":1}`), true), `[{"content":` + content + `,"event_id":"` + string(p.ID) + `","origin_server_ts":12345,"room_id":"!x:domain","sender":"@a:domain","state_key":"@a:domain","type":"m.room.member","unsigned":{"age":1}}`},
		{p.Stripped(nil), `{"content":` + content + `,"sender":"@a:domain","state_key":"@a:domain","type":"m.room.member"}`},
	} {
		if string(c.got) != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}
}

// Room version 11, section "Moving the redacts property": Build puts it where the version has it.
func TestBuildRedaction(t *testing.T) {
	for _, v := range []string{"1", "10", "11", "12"} {
		d := draft(v)
		d.Type, d.StateKey, d.Redacts, d.Content = "m.room.redaction", nil, "$target:domain", json.RawMessage(`{"reason":"spam"}`)
		p, err := event.Build(d, rulesOf(t, v), "domain", testKey(t))
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Redacts string
			Content struct{ Redacts, Reason string }
		}
		if err := json.Unmarshal(p.JSON, &got); err != nil {
			t.Fatal(err)
		}
		top, inside := "$target:domain", ""
		if p.Rules.RedactsInContent {
			top, inside = inside, top
		}
		if p.Redacts != "$target:domain" || got.Redacts != top || got.Content.Redacts != inside || got.Content.Reason != "spam" {
			t.Errorf("version %s: %s", v, p.JSON)
		}
	}
}
