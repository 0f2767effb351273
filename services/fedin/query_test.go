package fedin

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
)

const v1 = "/_matrix/federation/v1"

// keyObject is a published object of keys.
type keyObject struct {
	Server id.Server                    `json:"server_name"`
	Until  int64                        `json:"valid_until_ts"`
	Verify map[string]map[string]string `json:"verify_keys"`
	Old    map[string]struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts"`
	} `json:"old_verify_keys"`
}

// signedBy verifies the signature of a local server name on an object.
func (w *worker) signedBy(raw string, name id.Server) {
	w.t.Helper()
	k, err := w.names.SigningKey(w.t.Context(), name)
	must(w.t, err)
	if err := signing.VerifyJSON([]byte(raw), name, k.ID, k.Public()); err != nil {
		w.t.Errorf("%s: %v", raw, err)
	}
}

// Server-server API, "Publishing Keys".
func TestOwnKeys(t *testing.T) {
	w := newWorker(t)
	old, err := w.names.SigningKey(t.Context(), "a.example")
	must(t, err)
	r := w.do("GET", "/_matrix/key/v2/server", "", nil).ok()
	var k keyObject
	must(t, json.Unmarshal(r.raw, &k))
	if k.Server != "a.example" || k.Verify[old.ID]["key"] != signing.Encode(old.Public()) || len(k.Old) != 0 {
		t.Errorf("%s", r.raw)
	}
	if left := time.Until(time.UnixMilli(k.Until)); left < time.Hour || left > 7*24*time.Hour {
		t.Errorf("valid for %s", left)
	}
	w.signedBy(string(r.raw), "a.example")
	if canonical, err := canonjson.Canonical(r.raw); err != nil || string(canonical) != string(r.raw) {
		t.Errorf("%v: %s", err, r.raw)
	}
	w.do("GET", "/_matrix/key/v2/server/"+url.PathEscape(old.ID), "", nil).ok()
	_, err = w.names.Rotate(t.Context(), "a.example")
	must(t, err)
	w.signedBy(string(w.do("GET", "/_matrix/key/v2/server", "", nil).ok().raw), "a.example")
}

// Server-server API, "Querying Keys Through Another Server".
func TestNotary(t *testing.T) {
	w := newWorker(t)
	other := w.server("other.example")
	query := "/_matrix/key/v2/query/"
	r := w.do("GET", query+"other.example", "", nil).ok()
	got := r.get("server_keys.0")
	if got.Get("server_name").Str != "other.example" {
		t.Fatalf("%s", r.raw)
	}
	w.signedBy(got.Raw, "a.example")
	if err := signing.VerifyJSON([]byte(got.Raw), "other.example", other.key.ID, other.key.Public()); err != nil {
		t.Error("the server's own signature is lost")
	}
	// What is stored and valid is not asked for again; what is not valid long enough is, once a minute.
	w.do("GET", query+"other.example", "", nil).ok()
	late := fmt.Sprint(time.Now().Add(1000 * time.Hour).UnixMilli())
	w.do("GET", query+"other.example?minimum_valid_until_ts="+late, "", nil).ok()
	if n := w.others.askedFor("other.example"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	body := fmt.Sprintf(`{"server_keys":{"other.example":{%q:{}},"b.example":{},"nowhere.example":{"ed25519:1":{"minimum_valid_until_ts":5}}}}`, other.key.ID)
	for range 2 {
		many := w.do("POST", "/_matrix/key/v2/query", "", []byte(body)).ok()
		names := map[string]string{}
		for _, k := range many.get("server_keys").Array() {
			names[k.Get("server_name").Str] = k.Raw
		}
		if len(names) != 2 || names["other.example"] == "" {
			t.Fatalf("%s", many.raw)
		}
		w.signedBy(names["b.example"], "a.example")
		w.signedBy(names["b.example"], "b.example")
	}
	if n := w.others.askedFor("nowhere.example"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if r := w.do("GET", query+"a.example/ed25519:x", "", nil).ok(); r.get("server_keys.0.server_name").Str != "a.example" {
		t.Errorf("%s", r.raw)
	}
	w.do("GET", query+"not%20a%20name", "", nil).fails(400, merr.CodeInvalidParam)
	w.do("GET", query+"other.example?minimum_valid_until_ts=x", "", nil).fails(400, merr.CodeInvalidParam)
	w.do("POST", "/_matrix/key/v2/query", "", []byte(`{}`)).fails(400, merr.CodeMissingParam)
	w.do("POST", "/_matrix/key/v2/query", "", []byte(`{"server_keys":{"a b":{}}}`)).fails(400, merr.CodeInvalidParam)
	many := make(map[string]any)
	for i := range maxKeyServers + 1 {
		many[fmt.Sprintf("s%d.example", i)] = map[string]any{}
	}
	w.do("POST", "/_matrix/key/v2/query", "", jsonOf(t, map[string]any{"server_keys": many})).fails(400, merr.CodeInvalidParam)
}

// Server-server API, "Querying for information".
func TestQueryProfile(t *testing.T) {
	w := newWorker(t)
	w.account("anna")
	s := w.server("one.example")
	q := v1 + "/query/profile"
	if r := s.do("GET", profileURI, nil).ok(); r.get("displayname").Str != "anna" || r.get("avatar_url").Exists() {
		t.Errorf("%s", r.raw)
	}
	if r := s.do("GET", profileURI+"&field=avatar_url", nil).ok(); string(r.raw) != "{}" {
		t.Errorf("%s", r.raw)
	}
	if r := s.do("GET", profileURI+"&field=displayname", nil).ok(); string(r.raw) != `{"displayname":"anna"}` {
		t.Errorf("%s", r.raw)
	}
	s.do("GET", q+"?user_id=@nobody:a.example", nil).fails(404, merr.CodeNotFound)
	s.do("GET", q+"?user_id=@anna:c.example", nil).fails(400, merr.CodeInvalidParam)
	s.do("GET", q+"?user_id=anna", nil).fails(400, merr.CodeInvalidParam)
	s.do("GET", q, nil).fails(400, merr.CodeMissingParam)
}

// Server-server API, "OpenID".
func TestUserinfo(t *testing.T) {
	w := newWorker(t)
	anna := w.account("anna")
	must(t, w.users.AddOpenIDToken(t.Context(), "secret", anna, time.Now().Add(time.Hour)))
	must(t, w.users.AddOpenIDToken(t.Context(), "past", anna, time.Now().Add(-time.Hour)))
	q := v1 + "/openid/userinfo"
	if r := w.do("GET", q+"?access_token=secret", "", nil).ok(); r.get("sub").Str != string(anna) {
		t.Errorf("%s", r.raw)
	}
	w.do("GET", q+"?access_token=past", "", nil).fails(401, merr.CodeUnknownToken)
	w.do("GET", q+"?access_token=wrong", "", nil).fails(401, merr.CodeUnknownToken)
	w.do("GET", q, "", nil).fails(401, merr.CodeMissingToken)
	if r := w.do("GET", v1+"/version", "", nil).ok(); r.get("server.name").Str != "Hanse" || r.get("server.version").Str == "" {
		t.Errorf("%s", r.raw)
	}
}

// Server-server API, "End-to-End Encryption" and "Device Management".
func TestUserKeys(t *testing.T) {
	w := newWorker(t)
	anna := w.account("anna")
	s := w.server("one.example")
	ctx := t.Context()
	name := "Anna's telephone"
	for _, device := range []id.Device{"PHONE", "LAPTOP"} {
		_, err := w.users.PutDevice(ctx, anna, device, &name)
		must(t, err)
		_, err = w.users.UploadKeys(ctx, userdb.KeyUpload{User: anna, Device: device,
			Identity:  json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":[],"keys":{},"signatures":{}}`, anna, device)),
			OneTime:   []userdb.OneTimeKey{{Algorithm: "signed_curve25519", ID: "A1", Key: json.RawMessage(`{"key":"one"}`)}},
			Fallbacks: []userdb.OneTimeKey{{Algorithm: "signed_curve25519", ID: "F1", Key: json.RawMessage(`{"key":"fallback","fallback":true}`)}}})
		must(t, err)
	}
	_, err := w.users.PutCrossSigningKeys(ctx, anna, map[string]json.RawMessage{
		"master":       json.RawMessage(fmt.Sprintf(`{"user_id":%q,"usage":["master"],"keys":{"ed25519:m":"m"}}`, anna)),
		"self_signing": json.RawMessage(fmt.Sprintf(`{"user_id":%q,"usage":["self_signing"],"keys":{"ed25519:s":"s"}}`, anna)),
		"user_signing": json.RawMessage(fmt.Sprintf(`{"user_id":%q,"usage":["user_signing"],"keys":{"ed25519:u":"u"}}`, anna))})
	must(t, err)
	ask := func(endpoint string, body any) *reply { return s.do("POST", v1+"/user/keys/"+endpoint, body) }

	all := ask("query", map[string]any{"device_keys": map[string]any{string(anna): []string{}, "@nobody:a.example": []string{}}}).ok()
	var keys struct {
		Devices map[id.User]map[id.Device]json.RawMessage `json:"device_keys"`
		Master  map[id.User]json.RawMessage               `json:"master_keys"`
		Self    map[id.User]json.RawMessage               `json:"self_signing_keys"`
	}
	must(t, json.Unmarshal(all.raw, &keys))
	if len(keys.Devices[anna]) != 2 || keys.Master[anna] == nil || keys.Self[anna] == nil || strings.Contains(string(all.raw), "user_signing") {
		t.Errorf("%s", all.raw)
	}
	if strings.Contains(string(all.raw), "telephone") {
		t.Error("names of devices are nobody's business")
	}
	one := ask("query", map[string]any{"device_keys": map[string]any{string(anna): []string{"PHONE"}}}).ok()
	if strings.Contains(string(one.raw), "LAPTOP") {
		t.Errorf("%s", one.raw)
	}
	ask("query", map[string]any{}).fails(400, merr.CodeMissingParam)
	ask("query", map[string]any{"device_keys": map[string]any{"@x:c.example": []string{}}}).fails(400, merr.CodeInvalidParam)
	ask("query", map[string]any{"device_keys": []int{}}).fails(400, merr.CodeBadJSON)
	ask("query", nil).fails(400, merr.CodeNotJSON)

	claim := map[string]any{"one_time_keys": map[string]any{string(anna): map[string]string{"PHONE": "signed_curve25519", "NONE": "signed_curve25519"}}}
	for _, want := range []string{"A1", "F1", "F1"} {
		r := ask("claim", claim).ok()
		if !strings.Contains(string(r.raw), `"signed_curve25519:`+want+`"`) || strings.Contains(string(r.raw), "NONE") {
			t.Errorf("%s, want %s", r.raw, want)
		}
	}
	ask("claim", map[string]any{}).fails(400, merr.CodeMissingParam)
	ask("claim", map[string]any{"one_time_keys": map[string]any{"@x:c.example": map[string]string{}}}).fails(400, merr.CodeInvalidParam)

	devices := s.do("GET", v1+"/user/devices/"+url.PathEscape(string(anna)), nil).ok()
	if devices.get("stream_id").Int() == 0 || len(devices.get("devices").Array()) != 2 || devices.get("devices.0.device_id").Str != "LAPTOP" ||
		!devices.get("master_key").Exists() || !devices.get("self_signing_key").Exists() || devices.get("user_id").Str != string(anna) {
		t.Errorf("%s", devices.raw)
	}
	s.do("GET", v1+"/user/devices/@nobody:a.example", nil).fails(404, merr.CodeNotFound)
	s.do("GET", v1+"/user/devices/@x:c.example", nil).fails(400, merr.CodeInvalidParam)
}

func TestUnknownEndpoints(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	s.do("GET", v1+"/nothing", nil).fails(404, merr.CodeUnrecognized)
	s.do("POST", v1+"/version", nil).fails(405, merr.CodeUnrecognized)
	s.do("PUT", v1+"/exchange_third_party_invite/!a:b", map[string]any{}).fails(403, merr.CodeForbidden)
	s.do("PUT", v1+"/send_join/!a:b/x", `"`+strings.Repeat(" ", eventBody)+`"`).fails(413, merr.CodeTooLarge)
}

func TestConfig(t *testing.T) {
	cfg := Defaults()
	must(t, cfg.Validate())
	for _, change := range []func(*Config){
		func(c *Config) { c.Transactions = 0 }, func(c *Config) { c.KeyTTL = 8 * 24 * time.Hour }, func(c *Config) { c.Reads = -1 },
		func(c *Config) { c.TransactionTime = 0 }, func(c *Config) { c.KeepTransactions = time.Minute }, func(c *Config) { c.TransactionRooms = 0 },
	} {
		c := Defaults()
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	if _, err := New(cfg, Deps{}); err == nil {
		t.Error("a role of nothing")
	}
}
