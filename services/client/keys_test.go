package client

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/token"
	fedv1 "hanse/proto/federation/v1"
)

// signer is an ed25519 key of a user.
type signer struct {
	private ed25519.PrivateKey
	public  string
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	must(t, err)
	return &signer{priv, signing.Encode(pub)}
}

// sign adds a signature of a user's key to an object.
func (s *signer) sign(t *testing.T, obj map[string]any, user id.User, keyID string) map[string]any {
	t.Helper()
	plain := make(map[string]any)
	for k, v := range obj {
		if k != "signatures" && k != "unsigned" {
			plain[k] = v
		}
	}
	raw, err := canonjson.Marshal(plain)
	must(t, err)
	plain["signatures"] = map[string]any{string(user): map[string]any{keyID: signing.Encode(ed25519.Sign(s.private, raw))}}
	return plain
}

func (u *user) deviceKeys(s *signer) map[string]any {
	return map[string]any{
		"user_id": u.id, "device_id": u.device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": map[string]string{"ed25519:" + u.device: s.public, "curve25519:" + u.device: "x"},
	}
}

// Client-server API, "Key management API".
func TestKeysUploadQueryClaim(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	c.join(anna.id, "!in:a.example", "join")
	keys := anna.deviceKeys(newSigner(t))
	if a := anna.do("POST", v3+"/keys/upload", map[string]any{}).ok(); a.get("one_time_key_counts", "signed_curve25519") != 0.0 {
		t.Errorf("counts: %s", a.raw)
	}
	a := anna.do("POST", v3+"/keys/upload", map[string]any{
		"device_keys":   keys,
		"one_time_keys": map[string]any{"signed_curve25519:A": map[string]any{"key": "1"}, "signed_curve25519:B": map[string]any{"key": "2"}},
		"fallback_keys": map[string]any{"signed_curve25519:F": map[string]any{"key": "f", "fallback": true}},
	}).ok()
	if a.get("one_time_key_counts", "signed_curve25519") != 2.0 {
		t.Errorf("counts: %s", a.raw)
	}
	anna.do("POST", v3+"/keys/upload", map[string]any{"device_keys": keys}).ok() // nothing new
	c.rooms.mu.Lock()
	if n := len(c.rooms.devices); n != 1 || c.rooms.devices[0].DeviceId != anna.device || !c.rooms.devices[0].Local {
		t.Errorf("the rooms were told %d times: %v", n, c.rooms.devices)
	}
	c.rooms.mu.Unlock()

	q := bert.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.id): []string{}, "@none:a.example": []string{}}}).ok()
	if q.str("device_keys", string(anna.id), anna.device, "keys", "curve25519:"+anna.device) != "x" {
		t.Errorf("query: %s", q.raw)
	}
	anna.do("PUT", v3+"/devices/"+anna.device, map[string]string{"display_name": "Phone"}).ok()
	q = bert.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.id): []string{anna.device, "NONE"}}}).ok()
	if q.str("device_keys", string(anna.id), anna.device, "unsigned", "device_display_name") != "Phone" {
		t.Errorf("query: %s", q.raw)
	}
	q = bert.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.id): []string{"NONE"}}}).ok()
	if len(q.get("device_keys", string(anna.id)).(map[string]any)) != 0 {
		t.Errorf("query: %s", q.raw)
	}

	// The key decides, not its signature: the same again is no other key.
	again := func(key string) *reply {
		return anna.do("POST", v3+"/keys/upload", map[string]any{"one_time_keys": map[string]any{"signed_curve25519:A": map[string]any{
			"key": key, "signatures": map[string]any{string(anna.id): map[string]string{"ed25519:X": "another"}}}}})
	}
	if a := again("1").ok(); a.get("one_time_key_counts", "signed_curve25519") != 2.0 {
		t.Errorf("uploaded again: %s", a.raw)
	}
	again("other").fails(400, "M_UNKNOWN")

	claim := map[string]any{"one_time_keys": map[string]any{string(anna.id): map[string]string{anna.device: "signed_curve25519", "NONE": "signed_curve25519"}}}
	var got []string
	for range 4 {
		a := bert.do("POST", v3+"/keys/claim", claim).ok()
		for k := range a.get("one_time_keys", string(anna.id), anna.device).(map[string]any) {
			got = append(got, k)
		}
	}
	// Each one-time key once, then the fallback key again and again.
	if text := strings.Join(got, " "); !strings.HasSuffix(text, "signed_curve25519:F signed_curve25519:F") || got[0] == got[1] {
		t.Errorf("claimed: %v", got)
	}
	if algs, err := c.users.UnusedFallbackAlgorithms(t.Context(), anna.id, id.Device(anna.device)); err != nil || len(algs) != 0 {
		t.Errorf("unused fallback keys: %v %v", algs, err)
	}
	anna.do("POST", v3+"/keys/upload", map[string]any{"fallback_keys": map[string]any{"signed_curve25519:F": map[string]any{
		"key": "f", "fallback": true, "signatures": map[string]any{string(anna.id): map[string]string{"ed25519:X": "another"}}}}}).ok()
	if algs, err := c.users.UnusedFallbackAlgorithms(t.Context(), anna.id, id.Device(anna.device)); err != nil || len(algs) != 0 {
		t.Errorf("a used fallback key is unused after it was signed anew: %v %v", algs, err)
	}
	anna.do("POST", v3+"/keys/upload", map[string]any{"fallback_keys": map[string]any{"signed_curve25519:G": map[string]any{"key": "g"}}}).ok()
	if algs, err := c.users.UnusedFallbackAlgorithms(t.Context(), anna.id, id.Device(anna.device)); err != nil || len(algs) != 1 {
		t.Errorf("unused fallback keys: %v %v", algs, err)
	}
	anna.do("POST", v3+"/logout", nil).ok()
	q = bert.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.id): []string{}}}).ok()
	if len(q.get("device_keys", string(anna.id)).(map[string]any)) != 0 {
		t.Errorf("keys of a device that is gone: %s", q.raw)
	}
}

func TestKeysErrors(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	keys := func(member string, v any) map[string]any {
		k := anna.deviceKeys(&signer{public: "x"})
		k[member] = v
		return map[string]any{"device_keys": k}
	}
	anna.do("POST", v3+"/keys/upload", map[string]any{"one_time_keys": map[string]any{"signed_curve25519:A": map[string]any{"key": "1"}}}).ok()
	many := make(map[string]any)
	for i := range 1001 {
		many[fmt.Sprint("curve25519:", i)] = "x"
	}
	for name, tc := range map[string]struct {
		path string
		body any
		code string
	}{
		"other user":      {"/keys/upload", keys("user_id", "@bert:a.example"), "M_INVALID_PARAM"},
		"other device":    {"/keys/upload", keys("device_id", "OTHER"), "M_INVALID_PARAM"},
		"no algorithms":   {"/keys/upload", keys("algorithms", nil), "M_BAD_JSON"},
		"key of another":  {"/keys/upload", keys("keys", map[string]string{"ed25519:OTHER": "x"}), "M_INVALID_PARAM"},
		"floats":          {"/keys/upload", keys("x", 1.5), "M_BAD_JSON"},
		"not an object":   {"/keys/upload", map[string]any{"device_keys": "x"}, "M_BAD_JSON"},
		"path device":     {"/keys/upload/OTHER", map[string]any{}, "M_INVALID_PARAM"},
		"key name":        {"/keys/upload", map[string]any{"one_time_keys": map[string]any{"x": "y"}}, "M_BAD_JSON"},
		"key type":        {"/keys/upload", map[string]any{"one_time_keys": map[string]any{"x:y": 5}}, "M_BAD_JSON"},
		"key without key": {"/keys/upload", map[string]any{"one_time_keys": map[string]any{"x:y": map[string]any{}}}, "M_BAD_JSON"},
		"other key":       {"/keys/upload", map[string]any{"one_time_keys": map[string]any{"signed_curve25519:A": map[string]any{"key": "2"}}}, "M_UNKNOWN"},
		"too many":        {"/keys/upload", map[string]any{"one_time_keys": many}, "M_INVALID_PARAM"},
		"two fallbacks":   {"/keys/upload", map[string]any{"fallback_keys": map[string]any{"a:1": "x", "a:2": "y"}}, "M_INVALID_PARAM"},
		"query nothing":   {"/keys/query", map[string]any{}, "M_MISSING_PARAM"},
		"query nobody":    {"/keys/query", map[string]any{"device_keys": map[string]any{"nobody": []string{}}}, "M_INVALID_PARAM"},
		"query oddly":     {"/keys/query", map[string]any{"device_keys": map[string]any{"@a:b.example": "x"}}, "M_BAD_JSON"},
		"claim nothing":   {"/keys/claim", map[string]any{}, "M_MISSING_PARAM"},
		"claim nobody":    {"/keys/claim", map[string]any{"one_time_keys": map[string]any{"nobody": map[string]string{}}}, "M_INVALID_PARAM"},
		"claim oddly":     {"/keys/claim", map[string]any{"one_time_keys": map[string]any{"@a:b.example": []int{}}}, "M_BAD_JSON"},
	} {
		t.Run(name, func(t *testing.T) { anna.do("POST", v3+tc.path, tc.body).fails(400, tc.code) })
	}
}

// Server-server API, "End-to-End Encryption": keys of users elsewhere.
func TestRemoteKeys(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	query := map[string]any{"device_keys": map[string]any{"@rita:far.example": []string{}}}
	if a := anna.do("POST", v3+"/keys/query", query).ok(); a.get("failures", "far.example", "status") != 502.0 {
		t.Errorf("failures: %s", a.raw)
	}
	c.remote.answer = func(q *fedv1.DoRequest) (int, string) {
		switch q.Uri {
		case "/_matrix/federation/v1/user/keys/query":
			return 200, `{"device_keys":{"@rita:far.example":{"R":{"user_id":"@rita:far.example","device_id":"R","keys":{}},
				"FORGED":{"user_id":"@mallory:far.example","device_id":"FORGED"}},"@anna:a.example":{"X":{"user_id":"@anna:a.example","device_id":"X"}}},
				"master_keys":{"@rita:far.example":{"user_id":"@rita:far.example","keys":{"ed25519:m":"m"}}}}`
		case "/_matrix/federation/v1/user/keys/claim":
			return 200, `{"one_time_keys":{"@rita:far.example":{"R":{"signed_curve25519:A":{"key":"1"}},"UNASKED":{}}}}`
		}
		return 404, `{"errcode":"M_UNRECOGNIZED","error":"?"}`
	}
	a := anna.do("POST", v3+"/keys/query", query).ok()
	devices, _ := a.get("device_keys", "@rita:far.example").(map[string]any)
	if len(devices) != 1 || devices["R"] == nil || a.get("device_keys", "@anna:a.example") != nil || a.get("master_keys", "@rita:far.example") == nil {
		t.Errorf("query: %s", a.raw)
	}
	a = anna.do("POST", v3+"/keys/claim", map[string]any{"one_time_keys": map[string]any{"@rita:far.example": map[string]string{"R": "signed_curve25519"}}}).ok()
	if a.str("one_time_keys", "@rita:far.example", "R", "signed_curve25519:A", "key") != "1" || len(a.get("one_time_keys", "@rita:far.example").(map[string]any)) != 1 {
		t.Errorf("claim: %s", a.raw)
	}
}

// crossSigning is the cross-signing keys of a user.
type crossSigning struct {
	master, self, other *signer
	upload              map[string]any
}

func (u *user) crossSigning(t *testing.T) *crossSigning {
	t.Helper()
	k := &crossSigning{newSigner(t), newSigner(t), newSigner(t), nil}
	obj := func(usage string, s *signer) map[string]any {
		return map[string]any{"user_id": u.id, "usage": []string{usage}, "keys": map[string]string{"ed25519:" + s.public: s.public}}
	}
	k.upload = map[string]any{
		"master_key":       obj("master", k.master),
		"self_signing_key": k.master.sign(t, obj("self_signing", k.self), u.id, "ed25519:"+k.master.public),
		"user_signing_key": k.master.sign(t, obj("user_signing", k.other), u.id, "ed25519:"+k.master.public),
	}
	return k
}

// Client-server API, "Cross-signing"; version 1.11: no authentication for the first keys, nor for the same again.
func TestCrossSigning(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	keys := anna.crossSigning(t)
	upload := v3 + "/keys/device_signing/upload"
	alone := map[string]any{"self_signing_key": keys.upload["self_signing_key"]}
	anna.do("POST", upload, alone).fails(400, "M_MISSING_PARAM")
	forged := map[string]any{"master_key": keys.upload["master_key"], "self_signing_key": newSigner(t).sign(t,
		keys.upload["self_signing_key"].(map[string]any), anna.id, "ed25519:"+keys.master.public)}
	anna.do("POST", upload, forged).fails(400, "M_INVALID_SIGNATURE")
	anna.do("POST", upload, bert.crossSigning(t).upload).fails(400, "M_INVALID_PARAM")
	anna.do("POST", upload, map[string]any{"master_key": map[string]any{"user_id": anna.id, "usage": []string{"master"}, "keys": map[string]string{}}}).fails(400, "M_INVALID_PARAM")
	anna.do("POST", upload, map[string]any{"master_key": 5}).fails(400, "M_BAD_JSON")
	anna.do("POST", upload, keys.upload).ok()
	anna.do("POST", upload, keys.upload).ok()

	query := map[string]any{"device_keys": map[string]any{string(anna.id): []string{}}}
	own := anna.do("POST", v3+"/keys/query", query).ok()
	if own.get("master_keys", string(anna.id)) == nil || own.get("self_signing_keys", string(anna.id)) == nil || own.get("user_signing_keys", string(anna.id)) == nil {
		t.Errorf("own keys: %s", own.raw)
	}
	seen := bert.do("POST", v3+"/keys/query", query).ok()
	if seen.get("master_keys", string(anna.id)) == nil || seen.get("user_signing_keys", string(anna.id)) != nil {
		t.Errorf("keys as others see them: %s", seen.raw)
	}
	next := anna.crossSigning(t).upload
	if a := anna.do("POST", upload, next); a.status != 401 || a.get("flows") == nil {
		t.Errorf("keys replaced without authentication: %d %s", a.status, a.raw)
	}
	next["auth"] = anna.auth()
	anna.do("POST", upload, next).ok()
}

func TestSignatures(t *testing.T) {
	c := newCluster(t)
	anna, bert, carl := c.register("anna"), c.register("bert"), c.register("carl")
	device := newSigner(t)
	deviceKeys := anna.deviceKeys(device)
	anna.do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys}).ok()
	mine, theirs := anna.crossSigning(t), bert.crossSigning(t)
	anna.do("POST", v3+"/keys/device_signing/upload", mine.upload).ok()
	bert.do("POST", v3+"/keys/device_signing/upload", theirs.upload).ok()
	seq, err := c.users.Seq(t.Context(), anna.id)
	must(t, err)

	path := v3 + "/keys/signatures/upload"
	a := anna.do("POST", path, map[string]any{
		string(anna.id): map[string]any{
			anna.device:        mine.self.sign(t, deviceKeys, anna.id, "ed25519:"+mine.self.public),
			mine.master.public: device.sign(t, mine.upload["master_key"].(map[string]any), anna.id, "ed25519:"+anna.device),
			"NONE":             mine.self.sign(t, deviceKeys, anna.id, "ed25519:"+mine.self.public),
		},
		string(bert.id): map[string]any{
			theirs.master.public: mine.other.sign(t, theirs.upload["master_key"].(map[string]any), anna.id, "ed25519:"+mine.other.public),
		},
	}).ok()
	failures := a.get("failures").(map[string]any)
	if len(failures) != 1 || a.str("failures", string(anna.id), "NONE", "errcode") != "M_NOT_FOUND" {
		t.Fatalf("failures: %s", a.raw)
	}
	forged := anna.do("POST", path, map[string]any{string(anna.id): map[string]any{
		anna.device: newSigner(t).sign(t, deviceKeys, anna.id, "ed25519:"+mine.self.public)}}).ok()
	if forged.str("failures", string(anna.id), anna.device, "errcode") != "M_INVALID_SIGNATURE" {
		t.Errorf("forged: %s", forged.raw)
	}
	changed := mine.self.sign(t, bert.deviceKeys(device), anna.id, "ed25519:"+mine.self.public)
	if a := anna.do("POST", path, map[string]any{string(anna.id): map[string]any{anna.device: changed}}).ok(); a.str("failures", string(anna.id), anna.device, "errcode") != "M_INVALID_PARAM" {
		t.Errorf("another object: %s", a.raw)
	}
	query := map[string]any{"device_keys": map[string]any{string(anna.id): []string{}, string(bert.id): []string{}}}
	own := anna.do("POST", v3+"/keys/query", query).ok()
	sig := func(a *reply, path ...string) bool {
		return a.str(append(path, "signatures", string(anna.id))...) != "" || a.get(append(path, "signatures", string(anna.id))...) != nil
	}
	if !sig(own, "device_keys", string(anna.id), anna.device) || !sig(own, "master_keys", string(anna.id)) || !sig(own, "master_keys", string(bert.id)) {
		t.Errorf("signatures: %s", own.raw)
	}
	// "that the requesting user is allowed to see": nobody else sees whom anna has verified.
	other := carl.do("POST", v3+"/keys/query", query).ok()
	if !sig(other, "device_keys", string(anna.id), anna.device) || sig(other, "master_keys", string(bert.id)) {
		t.Errorf("signatures as others see them: %s", other.raw)
	}
	notices, err := c.users.DeviceNotices(t.Context(), anna.id, seq, 1<<40)
	must(t, err)
	if len(notices) != 2 {
		t.Errorf("notices: %v", notices)
	}
}

// Client-server API, "Server-side key backups".
func TestBackup(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	base := v3 + "/room_keys"
	anna.do("GET", base+"/version", nil).fails(404, "M_NOT_FOUND")
	body := map[string]any{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": map[string]any{"public_key": "x"}}
	v1 := anna.do("POST", base+"/version", body).ok().str("version")
	version := anna.do("POST", base+"/version", body).ok().str("version")
	if v1 != "1" || version != "2" {
		t.Fatalf("versions %q, %q", v1, version)
	}
	session := func(first, forwarded int, verified bool, data string) map[string]any {
		return map[string]any{"first_message_index": first, "forwarded_count": forwarded, "is_verified": verified, "session_data": map[string]any{"d": data}}
	}
	one := base + "/keys/!r:a.example/S1?version=" + version
	a := anna.do("PUT", one, session(5, 2, false, "a")).ok()
	if a.get("count") != 1.0 || a.str("etag") == "" {
		t.Errorf("answer: %s", a.raw)
	}
	etag := a.str("etag")
	data := func() string { return anna.do("GET", one, nil).ok().str("session_data", "d") }
	// Which key is better: verified, then a lower first index, then fewer forwards.
	for _, tc := range []struct {
		key  map[string]any
		want string
	}{
		{session(6, 0, false, "worse index"), "a"}, {session(5, 3, false, "worse forwards"), "a"}, {session(5, 1, false, "b"), "b"},
		{session(4, 9, false, "c"), "c"}, {session(9, 9, true, "d"), "d"}, {session(0, 0, false, "not verified"), "d"},
	} {
		anna.do("PUT", one, tc.key).ok()
		if got := data(); got != tc.want {
			t.Errorf("after %v: %q, want %q", tc.key, got, tc.want)
		}
	}
	anna.do("PUT", base+"/keys/!r:a.example?version="+version, map[string]any{"sessions": map[string]any{"S2": session(0, 0, true, "e")}}).ok()
	a = anna.do("PUT", base+"/keys?version="+version, map[string]any{"rooms": map[string]any{"!q:a.example": map[string]any{"sessions": map[string]any{"S3": session(0, 0, true, "f")}}}}).ok()
	if a.get("count") != 3.0 || a.str("etag") == etag {
		t.Errorf("answer: %s", a.raw)
	}
	if a := anna.do("GET", base+"/keys?version="+version, nil).ok(); a.str("rooms", "!q:a.example", "sessions", "S3", "session_data", "d") != "f" {
		t.Errorf("all keys: %s", a.raw)
	}
	if a := anna.do("GET", base+"/keys/!r:a.example?version="+version, nil).ok(); len(a.get("sessions").(map[string]any)) != 2 {
		t.Errorf("keys of a room: %s", a.raw)
	}
	if a := anna.do("GET", base+"/keys/!none:a.example?version="+version, nil).ok(); len(a.get("sessions").(map[string]any)) != 0 {
		t.Errorf("keys of no room: %s", a.raw)
	}
	if a := anna.do("GET", base+"/version", nil).ok(); a.str("version") != "2" || a.get("count") != 3.0 {
		t.Errorf("version: %s", a.raw)
	}
	wrong := anna.do("PUT", base+"/keys/!r:a.example/S1?version=1", session(0, 0, true, "x")).fails(403, "M_WRONG_ROOM_KEYS_VERSION")
	if wrong.str("current_version") != "2" {
		t.Errorf("wrong version: %s", wrong.raw)
	}
	if a := anna.do("DELETE", base+"/keys/!r:a.example/S1?version="+version, nil).ok(); a.get("count") != 2.0 {
		t.Errorf("deleted: %s", a.raw)
	}
	anna.do("GET", one, nil).fails(404, "M_NOT_FOUND")
	changed := map[string]any{"algorithm": body["algorithm"], "auth_data": map[string]any{"public_key": "y"}, "version": version}
	anna.do("PUT", base+"/version/2", changed).ok()
	if a := anna.do("GET", base+"/version/2", nil).ok(); a.str("auth_data", "public_key") != "y" {
		t.Errorf("auth data: %s", a.raw)
	}
	for name, tc := range map[string]struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		"no algorithm":      {"POST", "/version", map[string]any{"auth_data": map[string]any{}}, 400, "M_MISSING_PARAM"},
		"no auth data":      {"POST", "/version", map[string]any{"algorithm": "x"}, 400, "M_MISSING_PARAM"},
		"other algorithm":   {"PUT", "/version/2", map[string]any{"algorithm": "x", "auth_data": map[string]any{}}, 400, "M_INVALID_PARAM"},
		"other version":     {"PUT", "/version/2", map[string]any{"algorithm": body["algorithm"], "auth_data": map[string]any{}, "version": "1"}, 400, "M_INVALID_PARAM"},
		"unknown version":   {"GET", "/version/9", nil, 404, "M_NOT_FOUND"},
		"odd version":       {"GET", "/version/x", nil, 404, "M_NOT_FOUND"},
		"keys, no version":  {"GET", "/keys", nil, 400, "M_MISSING_PARAM"},
		"keys, bad version": {"GET", "/keys?version=9", nil, 404, "M_NOT_FOUND"},
		"no rooms":          {"PUT", "/keys?version=2", map[string]any{}, 400, "M_BAD_JSON"},
		"no sessions":       {"PUT", "/keys/!r:a.example?version=2", map[string]any{}, 400, "M_BAD_JSON"},
		"half a session":    {"PUT", "/keys/!r:a.example/S?version=2", map[string]any{"is_verified": true}, 400, "M_BAD_JSON"},
		"no room":           {"PUT", "/keys/nowhere/S?version=2", session(0, 0, true, "x"), 400, "M_INVALID_PARAM"},
	} {
		t.Run(name, func(t *testing.T) { anna.do(tc.method, base+tc.path, tc.body).fails(tc.status, tc.code) })
	}
	anna.do("DELETE", base+"/version/2", nil).ok()
	anna.do("DELETE", base+"/version/2", nil).fails(404, "M_NOT_FOUND")
	if a := anna.do("GET", base+"/version", nil).ok(); a.str("version") != "1" {
		t.Errorf("latest version: %s", a.raw)
	}
	if v := anna.do("POST", base+"/version", body).ok().str("version"); v != "3" {
		t.Errorf("a version number was used again: %s", v)
	}
}

// Client-server API, "Send-to-Device messaging".
func TestSendToDevice(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	second := c.login(bert.id, nil)
	body := map[string]any{"messages": map[string]any{
		string(bert.id):     map[string]any{bert.device: map[string]int{"n": 1}, "NONE": map[string]int{"n": 9}},
		string(anna.id):     map[string]any{"*": map[string]int{"n": 2}},
		"@rita:far.example": map[string]any{"R": map[string]int{"n": 3}},
	}}
	path := v3 + "/sendToDevice/m.test/t1"
	anna.do("PUT", path, body).ok()
	anna.do("PUT", path, body).ok() // the same request again
	waiting := func(u *user) int {
		msgs, _, err := c.users.ToDeviceSince(t.Context(), u.id, id.Device(u.device), 0, 1<<40, 100, 1<<20)
		must(t, err)
		for _, m := range msgs {
			if m.Sender != anna.id || m.Type != "m.test" {
				t.Errorf("message: %+v", m)
			}
		}
		return len(msgs)
	}
	if waiting(bert) != 1 || waiting(second) != 0 || waiting(anna) != 1 {
		t.Errorf("waiting: %d %d %d", waiting(bert), waiting(second), waiting(anna))
	}
	seq, err := c.users.Seq(t.Context(), bert.id)
	must(t, err)
	if n, err := c.users.AckToDevice(t.Context(), bert.id, id.Device(bert.device), seq); err != nil || n != 1 || waiting(bert) != 0 {
		t.Errorf("acknowledged %d: %v", n, err)
	}
	anna.do("PUT", v3+"/sendToDevice/m.test/t2", map[string]any{"messages": map[string]any{string(bert.id): map[string]any{"*": map[string]int{"n": 1}}}}).ok()
	if waiting(bert) != 1 || waiting(second) != 1 {
		t.Error("not all devices were sent to")
	}
	var content []byte
	n := 0
	for _, pool := range c.shards.All() {
		rows, err := pool.Query(t.Context(), `SELECT content FROM fed_edu WHERE server_name = 'far.example' AND edu_type = 'm.direct_to_device' AND origin = 'a.example'`)
		must(t, err)
		for rows.Next() {
			must(t, rows.Scan(&content))
			n++
		}
		must(t, rows.Err())
	}
	var edu struct {
		Sender, Type string
		MessageID    string                               `json:"message_id"`
		Messages     map[string]map[string]map[string]int `json:"messages"`
	}
	if n != 1 || json.Unmarshal(content, &edu) != nil || edu.Sender != string(anna.id) || edu.Type != "m.test" || edu.MessageID == "" || edu.Messages["@rita:far.example"]["R"]["n"] != 3 {
		t.Errorf("%d EDUs: %s", n, content)
	}
	anna.do("PUT", path+"x", map[string]any{}).fails(400, "M_MISSING_PARAM")
	anna.do("PUT", path+"x", map[string]any{"messages": map[string]any{"nobody": map[string]any{}}}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", path+"x", map[string]any{"messages": map[string]any{string(bert.id): map[string]any{"X": "text"}}}).fails(400, "M_BAD_JSON")
	anna.do("PUT", path+"x", map[string]any{"messages": 5}).fails(400, "M_BAD_JSON")
	anna.do("PUT", v3+"/sendToDevice/m.test/"+strings.Repeat("t", 256), body).fails(400, "M_INVALID_PARAM")
}

// Server-server API, "Device Management": the positions of devices are dense, as each names the one before as prev_id; those of
// cross-signing keys are others, and never one that was told before.
func TestDeviceStreams(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	c.join(anna.id, "!in:a.example", "join")
	device := newSigner(t)
	anna.do("POST", v3+"/keys/upload", map[string]any{"device_keys": anna.deviceKeys(device)}).ok()
	keys := anna.crossSigning(t)
	anna.do("POST", v3+"/keys/device_signing/upload", keys.upload).ok()
	anna.do("POST", v3+"/keys/signatures/upload", map[string]any{string(anna.id): map[string]any{
		anna.device: keys.self.sign(t, anna.deviceKeys(device), anna.id, "ed25519:"+keys.self.public)}}).ok()
	c.rooms.mu.Lock()
	defer c.rooms.mu.Unlock()
	var streams []string
	for _, d := range c.rooms.devices {
		streams = append(streams, fmt.Sprintf("%s%d", strings.ReplaceAll(d.DeviceId, anna.device, "device "), d.StreamId))
	}
	if got := strings.Join(streams, ", "); got != "device 1, 2, device 2" {
		t.Errorf("told %s", got)
	}
}

// Client-server API, "Key management API": GET /keys/changes.
func TestKeyChanges(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	c.join(anna.id, "!in:a.example", "invite") // a room that no local user is in
	seq, err := c.users.Seq(t.Context(), anna.id)
	must(t, err)
	from := (&token.Sync{UserSeq: seq}).Encode(anna.id)
	changed := func() []any {
		return anna.do("GET", v3+"/keys/changes?from="+from, nil).ok().get("changed").([]any)
	}
	if got := changed(); len(got) != 0 {
		t.Errorf("changed: %v", got)
	}
	anna.do("POST", v3+"/keys/upload", map[string]any{"device_keys": anna.deviceKeys(newSigner(t))}).ok()
	if got := changed(); len(got) != 1 || got[0] != string(anna.id) {
		t.Errorf("changed: %v", got)
	}
	anna.do("GET", v3+"/keys/changes", nil).fails(400, "M_MISSING_PARAM")
	for _, bad := range []string{"x", (&token.Sync{UserSeq: seq}).Encode(bert.id)} {
		anna.do("GET", v3+"/keys/changes?from="+bad, nil).fails(400, "M_INVALID_PARAM")
		anna.do("GET", v3+"/keys/changes?from="+from+"&to="+bad, nil).fails(400, "M_INVALID_PARAM")
	}
}
