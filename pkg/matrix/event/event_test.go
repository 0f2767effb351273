package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
)

func testKey(t testing.TB) *signing.Key {
	t.Helper()
	seed, err := signing.Decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.FromSeed("ed25519:1", seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rulesOf(t testing.TB, v string) *roomversion.Rules {
	t.Helper()
	r, ok := roomversion.Get(v)
	if !ok {
		t.Fatalf("room version %s", v)
	}
	return r
}

// Appendices, section "Cryptographic Test Vectors", "Event Signing".
func TestEventSigningVector(t *testing.T) {
	signed := `{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X"}`
	p, err := event.Parse([]byte(signed), rulesOf(t, "3"))
	if err != nil {
		t.Fatal(err)
	}
	if p.ContentRedacted {
		t.Error("the content hash does not match")
	}
	key := testKey(t)
	if err := p.Verify("domain", key.ID, key.Public()); err != nil {
		t.Error(err)
	}
}

func draft(v string) event.Draft {
	key := "@a:domain"
	d := event.Draft{
		RoomID: "!x:domain", Type: "m.room.member", StateKey: &key, Sender: "@a:domain", Depth: 5, OriginServerTS: 12345,
		Content:    json.RawMessage(`{"membership":"join","displayname":"A <b>","join_authorised_via_users_server":"@b:other"}`),
		PrevEvents: []id.Event{"$p:domain"}, AuthEvents: []id.Event{"$c:domain"},
		PrevHashes: [][32]byte{{1}}, AuthHashes: [][32]byte{{2}},
	}
	if v == "12" {
		d.RoomID = "!abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
	}
	return d
}

// Room version pages, sections "Event IDs", "Event format" and "Signing key validity period".
func TestBuildParseRoundTrip(t *testing.T) {
	key := testKey(t)
	for _, v := range roomversion.Supported() {
		rules := rulesOf(t, v)
		p, err := event.Build(draft(v), rules, "domain", key)
		if err != nil {
			t.Fatalf("version %s: %v", v, err)
		}
		q, err := event.Parse(p.JSON, rules)
		if err != nil {
			t.Fatalf("version %s: %v", v, err)
		}
		if q.ID != p.ID || q.ContentRedacted || !bytes.Equal(q.JSON, p.JSON) || q.Membership() != "join" || len(q.PrevEvents) != 1 || q.PrevEvents[0] != "$p:domain" {
			t.Errorf("version %s: %+v came back as %+v", v, p, q)
		}
		if err := q.Verify("domain", key.ID, key.Public()); err != nil {
			t.Errorf("version %s: %v", v, err)
		}
		// The reference hash and the signature survive redaction.
		r, err := q.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify("domain", key.ID, key.Public()); err != nil {
			t.Errorf("version %s, redacted: %v", v, err)
		}
		if rules.EventID > 1 {
			if s, err := event.Parse(r.JSON, rules); err != nil || s.ID != p.ID || !s.ContentRedacted {
				t.Errorf("version %s, redacted: %+v, %v", v, s, err)
			}
		}
		wantVia := rules.Redaction >= 9
		if got := strings.Contains(string(r.Content), "join_authorised"); got != wantVia {
			t.Errorf("version %s: redacted content %s", v, r.Content)
		}
		if strings.Contains(string(r.Content), "displayname") {
			t.Errorf("version %s: redacted content %s", v, r.Content)
		}
	}
}

// Room version 12, section "Room IDs as hashes of the create event".
func TestRoomIDOfVersion12(t *testing.T) {
	empty := ""
	p, err := event.Build(event.Draft{Type: "m.room.create", StateKey: &empty, Sender: "@a:domain", Depth: 1,
		Content: json.RawMessage(`{"room_version":"12"}`)}, rulesOf(t, "12"), "domain", testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if string(p.RoomID) != "!"+string(p.ID[1:]) {
		t.Errorf("room %s of create event %s", p.RoomID, p.ID)
	}
	if _, err := id.ParseRoom(string(p.RoomID)); err != nil {
		t.Error(err)
	}
	with, err := canonjson.ParseObject(p.JSON)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := event.Parse(with.With("room_id", []byte(`"!x:domain"`)).Bytes(), p.Rules); !errors.Is(err, event.ErrInvalid) {
		t.Errorf("a create event with room_id: %v, want ErrInvalid", err)
	}
}

// Server-server API, section "Checks performed on receipt of a PDU": a wrong hash leaves the redacted event.
func TestWrongHashRedacts(t *testing.T) {
	p, err := event.Build(draft("10"), rulesOf(t, "10"), "domain", testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(p.JSON, []byte("A <b>"), []byte("B <b>"), 1)
	q, err := event.Parse(forged, p.Rules)
	if err != nil {
		t.Fatal(err)
	}
	if !q.ContentRedacted || strings.Contains(string(q.JSON), "displayname") || q.ID != p.ID {
		t.Errorf("%s redacted %v", q.JSON, q.ContentRedacted)
	}
}

// Client-server API, section "Size limits".
func TestLimits(t *testing.T) {
	d := draft("11")
	d.Content = json.RawMessage(`{"body":"` + strings.Repeat("x", event.MaxBytes) + `"}`)
	if _, err := event.Build(d, rulesOf(t, "11"), "domain", testKey(t)); !errors.Is(err, event.ErrTooLarge) {
		t.Errorf("64 KiB of content: %v, want ErrTooLarge", err)
	}
	d = draft("11")
	d.Type = strings.Repeat("ü", 128)
	if _, err := event.Build(d, rulesOf(t, "11"), "domain", testKey(t)); !errors.Is(err, event.ErrTooLarge) {
		t.Errorf("256 bytes of type: %v, want ErrTooLarge", err)
	}
}

func TestParseRejects(t *testing.T) {
	p, err := event.Build(draft("11"), rulesOf(t, "11"), "domain", testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	o, err := canonjson.ParseObject(p.JSON)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]canonjson.Object{
		"no type":               o.Without("type"),
		"type of another kind":  o.With("type", []byte("1")),
		"no room":               o.Without("room_id"),
		"sender":                o.With("sender", []byte(`"a:domain"`)),
		"content":               o.With("content", []byte(`[]`)),
		"depth":                 o.With("depth", []byte(`-1`)),
		"depth a string":        o.With("depth", []byte(`"1"`)),
		"prev_events":           o.With("prev_events", []byte(`{}`)),
		"prev_events of pairs":  o.With("prev_events", []byte(`[["$a:b",{}]]`)),
		"21 prev_events":        o.With("prev_events", []byte(`["$a"`+strings.Repeat(`,"$a"`, 20)+`]`)),
		"11 auth_events":        o.With("auth_events", []byte(`["$a"`+strings.Repeat(`,"$a"`, 10)+`]`)),
		"no hashes":             o.Without("hashes"),
		"float":                 o.With("content", []byte(`{"a":1.5}`)),
		"state_key of any kind": o.With("state_key", []byte(`null`)),
	} {
		if _, err := event.Parse(bad.Bytes(), p.Rules); !errors.Is(err, event.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// Room version 11, section "Moving the redacts property of m.room.redaction events to a content property".
func TestClientFormOfRedactions(t *testing.T) {
	for _, v := range []string{"10", "11"} {
		d := draft(v)
		d.Type, d.StateKey, d.Redacts, d.Content = "m.room.redaction", nil, "$target", json.RawMessage(`{"redacts":"$target"}`)
		if v == "10" {
			d.Content = json.RawMessage(`{}`)
		}
		p, err := event.Build(d, rulesOf(t, v), "domain", testKey(t))
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Redacts string
			Content struct{ Redacts string }
		}
		if err := json.Unmarshal(p.ClientJSON(nil, []byte(`{"age":1}`), true), &got); err != nil {
			t.Fatal(err)
		}
		if got.Redacts != "$target" || got.Content.Redacts != "$target" {
			t.Errorf("version %s: %+v", v, got)
		}
	}
}

// What is written without being parsed is what ClientJSON writes; ParseStored refuses what needs more than that.
func TestStored(t *testing.T) {
	for _, v := range []string{"1", "10", "12"} {
		d := draft(v)
		d.Content = json.RawMessage(`{"displayname":"A \"b\\ <c> ü","membership":"join","x":{"content":{},"y":["}"]}}`)
		p, err := event.Build(d, rulesOf(t, v), "domain", testKey(t))
		if err != nil {
			t.Fatal(err)
		}
		s, ok := event.ParseStored(p.JSON)
		if !ok {
			t.Fatalf("version %s: %s is refused", v, p.JSON)
		}
		for _, withRoomID := range []bool{true, false} {
			room := p.RoomID
			if !withRoomID {
				room = ""
			}
			got := append(s.AppendClient(nil, []byte(p.ID), room), '}')
			if want := p.ClientJSON(nil, nil, withRoomID); string(got) != string(want) {
				t.Errorf("version %s: %s, want %s", v, got, want)
			}
		}
		if want := `"` + string(p.Sender) + `"`; string(s.Sender) != want || string(s.Content) != string(p.Content) || s.OriginServerTS != p.OriginServerTS {
			t.Errorf("version %s: %+v", v, s)
		}
	}
	for _, raw := range []string{
		``, `{}`, `[]`, `{"content":{}`, `{"content":{},"origin_server_ts":1,"sender":"@a:x","type":"m"}`,
		`{"content":{},"origin_server_ts":1,"sender":7,"state_key":"","type":"m"}`,
		`{"content":{},"origin_server_ts":"1","sender":"@a:x","state_key":"","type":"m"}`,
		`{"origin_server_ts":1,"sender":"@a:x","state_key":"","type":"m"}`,
		`{"content":{},"origin_server_ts":1,"redacts":"$e","sender":"@a:x","state_key":"","type":"m.room.redaction"}`,
		`{"content":{},"origin_server_ts":1,"sender":"@a:x","state_key":"","type":"m"} `,
	} {
		if s, ok := event.ParseStored([]byte(raw)); ok {
			t.Errorf("%s is %+v", raw, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range []string{"1", "5", "11"} {
		p, err := event.Build(draft(v), rulesOf(f, v), "domain", testKey(f))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.JSON, v)
	}
	f.Add([]byte(`{"type":"m.room.create","state_key":"","content":{},"depth":1}`), "12")
	f.Fuzz(func(t *testing.T, raw []byte, v string) {
		rules, ok := roomversion.Get(v)
		if !ok {
			return
		}
		p, err := event.Parse(raw, rules)
		if err != nil {
			return
		}
		q, err := event.Parse(p.JSON, rules)
		if err != nil || q.ID != p.ID {
			t.Fatalf("%s parsed as %s, and that as %v, %v", raw, p.JSON, q, err)
		}
		if _, err := p.Redacted(); err != nil {
			t.Fatalf("redact %s: %v", p.JSON, err)
		}
		c := p.ClientJSON(nil, nil, true)
		if !json.Valid(c) {
			t.Fatalf("client form %s", c)
		}
		s, ok := event.ParseStored(p.JSON)
		if !ok {
			return
		}
		if got := append(s.AppendClient(nil, []byte(p.ID), p.RoomID), '}'); string(got) != string(c) {
			t.Fatalf("client form %s, and %s without parsing", c, got)
		}
	})
}
