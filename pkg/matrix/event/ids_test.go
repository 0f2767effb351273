package event_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// Room version pages, section "Event IDs".
func TestEventIDs(t *testing.T) {
	for _, v := range roomversion.Supported() {
		rules := rulesOf(t, v)
		p, err := event.Build(draft(v), rules, "domain", testKey(t))
		if err != nil {
			t.Fatal(err)
		}
		hash, err := event.ReferenceHash(p.JSON, rules)
		if err != nil {
			t.Fatal(err)
		}
		switch v {
		case "1", "2":
			if p.ID.Server() != "domain" {
				t.Errorf("version %s: %s", v, p.ID)
			}
			if o, err := canonjson.ParseObject(p.JSON); err != nil {
				t.Error(err)
			} else if s, _ := o.String("event_id"); s != string(p.ID) {
				t.Errorf("version %s: %s in the event, %s beside it", v, s, p.ID)
			}
		case "3":
			if want := "$" + base64.RawStdEncoding.EncodeToString(hash[:]); string(p.ID) != want {
				t.Errorf("version %s: %s, want %s", v, p.ID, want)
			}
		default:
			if want := "$" + base64.RawURLEncoding.EncodeToString(hash[:]); string(p.ID) != want {
				t.Errorf("version %s: %s, want %s", v, p.ID, want)
			}
		}
	}
}

// Server-server API, section "Calculating the reference hash for an event": signatures, unsigned and what a redaction
// removes make no difference; anything else does.
func TestReferenceHash(t *testing.T) {
	p, err := event.Build(draft("11"), rulesOf(t, "11"), "domain", testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	hash := func(o canonjson.Object) [32]byte {
		h, err := event.ReferenceHash(o.Bytes(), p.Rules)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	o, err := canonjson.ParseObject(p.JSON)
	if err != nil {
		t.Fatal(err)
	}
	want := hash(o)
	for key, raw := range map[string]string{"signatures": `{}`, "unsigned": `{"age":1}`, "age_ts": `1`, "anything": `1`, "content": `{"displayname":"other","join_authorised_via_users_server":"@b:other","membership":"join"}`} {
		if hash(o.With(key, []byte(raw))) != want {
			t.Errorf("%s changes the reference hash", key)
		}
	}
	for key, raw := range map[string]string{"hashes": `{}`, "depth": `6`, "content": `{"membership":"leave"}`, "sender": `"@b:domain"`, "prev_events": `[]`} {
		if hash(o.With(key, []byte(raw))) == want {
			t.Errorf("%s does not change the reference hash", key)
		}
	}
}

// Server-server API, section "Validating hashes and signatures on received events"; room version 8, section "Signing".
func TestSigningServers(t *testing.T) {
	for _, c := range []struct {
		v, content string
		want       string
	}{
		{"1", `{"membership":"join"}`, "domain"},
		{"7", `{"membership":"join","join_authorised_via_users_server":"@b:other"}`, "domain"},
		{"8", `{"membership":"join","join_authorised_via_users_server":"@b:other"}`, "domain other"},
		{"12", `{"membership":"join","join_authorised_via_users_server":"@b:domain"}`, "domain"},
		{"12", `{"membership":"leave","join_authorised_via_users_server":"@b:other"}`, "domain"},
		{"12", `{"membership":"join","join_authorised_via_users_server":1}`, "domain"},
		{"12", `{"membership":"invite"}`, "domain"},
		{"12", `{"membership":"invite","third_party_invite":{"signed":{}}}`, ""},
		{"2", `{"membership":"invite","third_party_invite":{"signed":{}}}`, "domain"}, // that of the event id
	} {
		d := draft(c.v)
		d.Content = json.RawMessage(c.content)
		p, err := event.Build(d, rulesOf(t, c.v), "domain", testKey(t))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range p.SigningServers() {
			got = append(got, string(s))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("version %s, %s: %v, want %s", c.v, c.content, got, c.want)
		}
	}
}

// A second signature changes neither the id nor the first one.
func TestSign(t *testing.T) {
	key := testKey(t)
	p, err := event.Build(draft("10"), rulesOf(t, "10"), "domain", key)
	if err != nil {
		t.Fatal(err)
	}
	q, err := event.Sign(p, "other", key)
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []id.Server{"domain", "other"} {
		if err := q.Verify(server, key.ID, key.Public()); err != nil {
			t.Error(err)
		}
	}
	if r, err := event.Parse(q.JSON, q.Rules); err != nil || r.ID != p.ID || r.ContentRedacted {
		t.Errorf("%+v, %v", r, err)
	}
}

// Room version 1: depths beyond 2^53 exist in old rooms; room version 6 ends that.
func TestDepth(t *testing.T) {
	for v, want := range map[string]int64{"1": 1<<63 - 1, "5": 1<<63 - 1, "6": canonjson.MaxInt, "12": canonjson.MaxInt} {
		d := draft(v)
		d.Depth = 1<<63 - 1
		p, err := event.Build(d, rulesOf(t, v), "domain", testKey(t))
		if err != nil {
			t.Fatal(err)
		}
		if q, err := event.Parse(p.JSON, p.Rules); err != nil || q.Depth != want {
			t.Errorf("version %s: %+v, %v", v, q, err)
		}
	}
}

// What Build makes, Parse takes as it is, whatever the content.
func TestBuildParseProperty(t *testing.T) {
	key := testKey(t)
	versions := roomversion.Supported()
	rapid.Check(t, func(t *rapid.T) {
		rules, _ := roomversion.Get(rapid.SampledFrom(versions).Draw(t, "version"))
		content, err := json.Marshal(rapid.MapOfN(rapid.String(), rapid.OneOf(rapid.String().AsAny(), rapid.Int64Range(-1<<50, 1<<50).AsAny(), rapid.Bool().AsAny(), rapid.SliceOf(rapid.String()).AsAny()), 0, 6).Draw(t, "content"))
		if err != nil {
			t.Fatal(err)
		}
		d := draft(rules.Version)
		d.Type = rapid.SampledFrom([]string{"m.room.message", "m.room.create", "m.room.power_levels", "x"}).Draw(t, "type")
		d.Content, d.StateKey = content, nil
		if rapid.Bool().Draw(t, "state") {
			s := strings.ReplaceAll(rapid.StringN(1, 60, 255).Draw(t, "state key"), "\x00", "0")
			d.StateKey = &s
		}
		p, err := event.Build(d, rules, "domain", key)
		if err != nil {
			t.Fatal(err)
		}
		q, err := event.Parse(p.JSON, rules)
		if err != nil {
			t.Fatal(err)
		}
		if q.ID != p.ID || q.ContentRedacted || string(q.JSON) != string(p.JSON) || string(q.Content) != string(p.Content) || q.Tuple() != p.Tuple() {
			t.Fatalf("%s came back as %s", p.JSON, q.JSON)
		}
		r, err := q.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify("domain", key.ID, key.Public()); err != nil {
			t.Fatal(err)
		}
		if c := p.ClientJSON(nil, []byte(`{"age":1}`), true); !json.Valid(c) {
			t.Fatalf("client form %s", c)
		}
		if c := p.Stripped(nil); !json.Valid(c) {
			t.Fatalf("stripped form %s", c)
		}
	})
}
