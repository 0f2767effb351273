package keys_test

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
	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// signer is an ed25519 key of a user.
type signer struct {
	private ed25519.PrivateKey
	public  string
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	clienttest.Must(t, err)
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
	clienttest.Must(t, err)
	plain["signatures"] = map[string]any{string(user): map[string]any{keyID: signing.Encode(ed25519.Sign(s.private, raw))}}
	return plain
}

func keysOf(u *clienttest.User, s *signer) map[string]any {
	return map[string]any{
		"user_id": u.ID, "device_id": u.Device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": map[string]string{"ed25519:" + u.Device: s.public, "curve25519:" + u.Device: "x"},
	}
}

// Client-server API, "Key management API".
func TestKeysUploadQueryClaim(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	c.Join(anna.ID, "!in:a.example", "join")
	keys := keysOf(anna, newSigner(t))
	if a := anna.Do("POST", v3+"/keys/upload", map[string]any{}).OK(); a.Get("one_time_key_counts", "signed_curve25519") != 0.0 {
		t.Errorf("counts: %s", a.Raw)
	}
	a := anna.Do("POST", v3+"/keys/upload", map[string]any{
		"device_keys":   keys,
		"one_time_keys": map[string]any{"signed_curve25519:A": map[string]any{"key": "1"}, "signed_curve25519:B": map[string]any{"key": "2"}},
		"fallback_keys": map[string]any{"signed_curve25519:F": map[string]any{"key": "f", "fallback": true}},
	}).OK()
	if a.Get("one_time_key_counts", "signed_curve25519") != 2.0 {
		t.Errorf("counts: %s", a.Raw)
	}
	anna.Do("POST", v3+"/keys/upload", map[string]any{"device_keys": keys}).OK() // nothing new
	c.Rooms.Mu.Lock()
	if n := len(c.Rooms.Devices); n != 1 || c.Rooms.Devices[0].DeviceId != anna.Device || !c.Rooms.Devices[0].Local {
		t.Errorf("the rooms were told %d times: %v", n, c.Rooms.Devices)
	}
	c.Rooms.Mu.Unlock()

	q := bert.Do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.ID): []string{}, "@none:a.example": []string{}}}).OK()
	if q.Str("device_keys", string(anna.ID), anna.Device, "keys", "curve25519:"+anna.Device) != "x" {
		t.Errorf("query: %s", q.Raw)
	}
	anna.Do("PUT", v3+"/devices/"+anna.Device, map[string]string{"display_name": "Phone"}).OK()
	q = bert.Do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.ID): []string{anna.Device, "NONE"}}}).OK()
	if q.Str("device_keys", string(anna.ID), anna.Device, "unsigned", "device_display_name") != "Phone" {
		t.Errorf("query: %s", q.Raw)
	}
	q = bert.Do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.ID): []string{"NONE"}}}).OK()
	if len(q.Get("device_keys", string(anna.ID)).(map[string]any)) != 0 {
		t.Errorf("query: %s", q.Raw)
	}

	// The key decides, not its signature: the same again is no other key.
	again := func(key string) *clienttest.Reply {
		return anna.Do("POST", v3+"/keys/upload", map[string]any{"one_time_keys": map[string]any{"signed_curve25519:A": map[string]any{
			"key": key, "signatures": map[string]any{string(anna.ID): map[string]string{"ed25519:X": "another"}}}}})
	}
	if a := again("1").OK(); a.Get("one_time_key_counts", "signed_curve25519") != 2.0 {
		t.Errorf("uploaded again: %s", a.Raw)
	}
	again("other").Fails(400, "M_UNKNOWN")

	claim := map[string]any{"one_time_keys": map[string]any{string(anna.ID): map[string]string{anna.Device: "signed_curve25519", "NONE": "signed_curve25519"}}}
	var got []string
	for range 4 {
		a := bert.Do("POST", v3+"/keys/claim", claim).OK()
		for k := range a.Get("one_time_keys", string(anna.ID), anna.Device).(map[string]any) {
			got = append(got, k)
		}
	}
	// Each one-time key once, then the fallback key again and again.
	if text := strings.Join(got, " "); !strings.HasSuffix(text, "signed_curve25519:F signed_curve25519:F") || got[0] == got[1] {
		t.Errorf("claimed: %v", got)
	}
	if algs, err := c.Users.UnusedFallbackAlgorithms(t.Context(), anna.ID, id.Device(anna.Device)); err != nil || len(algs) != 0 {
		t.Errorf("unused fallback keys: %v %v", algs, err)
	}
	anna.Do("POST", v3+"/keys/upload", map[string]any{"fallback_keys": map[string]any{"signed_curve25519:F": map[string]any{
		"key": "f", "fallback": true, "signatures": map[string]any{string(anna.ID): map[string]string{"ed25519:X": "another"}}}}}).OK()
	if algs, err := c.Users.UnusedFallbackAlgorithms(t.Context(), anna.ID, id.Device(anna.Device)); err != nil || len(algs) != 0 {
		t.Errorf("a used fallback key is unused after it was signed anew: %v %v", algs, err)
	}
	anna.Do("POST", v3+"/keys/upload", map[string]any{"fallback_keys": map[string]any{"signed_curve25519:G": map[string]any{"key": "g"}}}).OK()
	if algs, err := c.Users.UnusedFallbackAlgorithms(t.Context(), anna.ID, id.Device(anna.Device)); err != nil || len(algs) != 1 {
		t.Errorf("unused fallback keys: %v %v", algs, err)
	}
	anna.Do("POST", v3+"/logout", nil).OK()
	q = bert.Do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(anna.ID): []string{}}}).OK()
	if len(q.Get("device_keys", string(anna.ID)).(map[string]any)) != 0 {
		t.Errorf("keys of a device that is gone: %s", q.Raw)
	}
}

func TestKeysErrors(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	keys := func(member string, v any) map[string]any {
		k := keysOf(anna, &signer{public: "x"})
		k[member] = v
		return map[string]any{"device_keys": k}
	}
	anna.Do("POST", v3+"/keys/upload", map[string]any{"one_time_keys": map[string]any{"signed_curve25519:A": map[string]any{"key": "1"}}}).OK()
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
		t.Run(name, func(t *testing.T) { anna.Do("POST", v3+tc.path, tc.body).Fails(400, tc.code) })
	}
}

// Server-server API, "End-to-End Encryption": keys of users elsewhere.
func TestRemoteKeys(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	query := map[string]any{"device_keys": map[string]any{"@rita:far.example": []string{}}}
	if a := anna.Do("POST", v3+"/keys/query", query).OK(); a.Get("failures", "far.example", "status") != 502.0 {
		t.Errorf("failures: %s", a.Raw)
	}
	c.Remote.Answer = func(q *fedv1.DoRequest) (int, string) {
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
	a := anna.Do("POST", v3+"/keys/query", query).OK()
	devices, _ := a.Get("device_keys", "@rita:far.example").(map[string]any)
	if len(devices) != 1 || devices["R"] == nil || a.Get("device_keys", "@anna:a.example") != nil || a.Get("master_keys", "@rita:far.example") == nil {
		t.Errorf("query: %s", a.Raw)
	}
	a = anna.Do("POST", v3+"/keys/claim", map[string]any{"one_time_keys": map[string]any{"@rita:far.example": map[string]string{"R": "signed_curve25519"}}}).OK()
	if a.Str("one_time_keys", "@rita:far.example", "R", "signed_curve25519:A", "key") != "1" || len(a.Get("one_time_keys", "@rita:far.example").(map[string]any)) != 1 {
		t.Errorf("claim: %s", a.Raw)
	}
}

// crossSigning is the cross-signing keys of a user.
type crossSigning struct {
	master, self, other *signer
	upload              map[string]any
}

func crossSigningOf(t *testing.T, u *clienttest.User) *crossSigning {
	t.Helper()
	k := &crossSigning{newSigner(t), newSigner(t), newSigner(t), nil}
	obj := func(usage string, s *signer) map[string]any {
		return map[string]any{"user_id": u.ID, "usage": []string{usage}, "keys": map[string]string{"ed25519:" + s.public: s.public}}
	}
	k.upload = map[string]any{
		"master_key":       obj("master", k.master),
		"self_signing_key": k.master.sign(t, obj("self_signing", k.self), u.ID, "ed25519:"+k.master.public),
		"user_signing_key": k.master.sign(t, obj("user_signing", k.other), u.ID, "ed25519:"+k.master.public),
	}
	return k
}

// Client-server API, "Cross-signing"; version 1.11: no authentication for the first keys, nor for the same again.
func TestCrossSigning(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	keys := crossSigningOf(t, anna)
	upload := v3 + "/keys/device_signing/upload"
	alone := map[string]any{"self_signing_key": keys.upload["self_signing_key"]}
	anna.Do("POST", upload, alone).Fails(400, "M_MISSING_PARAM")
	forged := map[string]any{"master_key": keys.upload["master_key"], "self_signing_key": newSigner(t).sign(t,
		keys.upload["self_signing_key"].(map[string]any), anna.ID, "ed25519:"+keys.master.public)}
	anna.Do("POST", upload, forged).Fails(400, "M_INVALID_SIGNATURE")
	anna.Do("POST", upload, crossSigningOf(t, bert).upload).Fails(400, "M_INVALID_PARAM")
	anna.Do("POST", upload, map[string]any{"master_key": map[string]any{"user_id": anna.ID, "usage": []string{"master"}, "keys": map[string]string{}}}).Fails(400, "M_INVALID_PARAM")
	anna.Do("POST", upload, map[string]any{"master_key": 5}).Fails(400, "M_BAD_JSON")
	anna.Do("POST", upload, keys.upload).OK()
	anna.Do("POST", upload, keys.upload).OK()
	anna.Do("POST", strings.Replace(upload, "/v3/", "/unstable/", 1), keys.upload).OK() // as clients of the proposal call it

	query := map[string]any{"device_keys": map[string]any{string(anna.ID): []string{}}}
	own := anna.Do("POST", v3+"/keys/query", query).OK()
	if own.Get("master_keys", string(anna.ID)) == nil || own.Get("self_signing_keys", string(anna.ID)) == nil || own.Get("user_signing_keys", string(anna.ID)) == nil {
		t.Errorf("own keys: %s", own.Raw)
	}
	seen := bert.Do("POST", v3+"/keys/query", query).OK()
	if seen.Get("master_keys", string(anna.ID)) == nil || seen.Get("user_signing_keys", string(anna.ID)) != nil {
		t.Errorf("keys as others see them: %s", seen.Raw)
	}
	next := crossSigningOf(t, anna).upload
	if a := anna.Do("POST", upload, next); a.Status != 401 || a.Get("flows") == nil {
		t.Errorf("keys replaced without authentication: %d %s", a.Status, a.Raw)
	}
	next["auth"] = anna.Auth()
	anna.Do("POST", upload, next).OK()
}

func TestSignatures(t *testing.T) {
	c := clienttest.New(t)
	anna, bert, carl := c.Register("anna"), c.Register("bert"), c.Register("carl")
	device := newSigner(t)
	deviceKeys := keysOf(anna, device)
	anna.Do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys}).OK()
	mine, theirs := crossSigningOf(t, anna), crossSigningOf(t, bert)
	anna.Do("POST", v3+"/keys/device_signing/upload", mine.upload).OK()
	bert.Do("POST", v3+"/keys/device_signing/upload", theirs.upload).OK()
	seq, err := c.Users.Seq(t.Context(), anna.ID)
	clienttest.Must(t, err)

	path := v3 + "/keys/signatures/upload"
	a := anna.Do("POST", path, map[string]any{
		string(anna.ID): map[string]any{
			anna.Device:        mine.self.sign(t, deviceKeys, anna.ID, "ed25519:"+mine.self.public),
			mine.master.public: device.sign(t, mine.upload["master_key"].(map[string]any), anna.ID, "ed25519:"+anna.Device),
			"NONE":             mine.self.sign(t, deviceKeys, anna.ID, "ed25519:"+mine.self.public),
		},
		string(bert.ID): map[string]any{
			theirs.master.public: mine.other.sign(t, theirs.upload["master_key"].(map[string]any), anna.ID, "ed25519:"+mine.other.public),
		},
	}).OK()
	failures := a.Get("failures").(map[string]any)
	if len(failures) != 1 || a.Str("failures", string(anna.ID), "NONE", "errcode") != "M_NOT_FOUND" {
		t.Fatalf("failures: %s", a.Raw)
	}
	forged := anna.Do("POST", path, map[string]any{string(anna.ID): map[string]any{
		anna.Device: newSigner(t).sign(t, deviceKeys, anna.ID, "ed25519:"+mine.self.public)}}).OK()
	if forged.Str("failures", string(anna.ID), anna.Device, "errcode") != "M_INVALID_SIGNATURE" {
		t.Errorf("forged: %s", forged.Raw)
	}
	changed := mine.self.sign(t, keysOf(bert, device), anna.ID, "ed25519:"+mine.self.public)
	if a := anna.Do("POST", path, map[string]any{string(anna.ID): map[string]any{anna.Device: changed}}).OK(); a.Str("failures", string(anna.ID), anna.Device, "errcode") != "M_INVALID_PARAM" {
		t.Errorf("another object: %s", a.Raw)
	}
	query := map[string]any{"device_keys": map[string]any{string(anna.ID): []string{}, string(bert.ID): []string{}}}
	own := anna.Do("POST", v3+"/keys/query", query).OK()
	sig := func(a *clienttest.Reply, path ...string) bool {
		return a.Str(append(path, "signatures", string(anna.ID))...) != "" || a.Get(append(path, "signatures", string(anna.ID))...) != nil
	}
	if !sig(own, "device_keys", string(anna.ID), anna.Device) || !sig(own, "master_keys", string(anna.ID)) || !sig(own, "master_keys", string(bert.ID)) {
		t.Errorf("signatures: %s", own.Raw)
	}
	// "that the requesting user is allowed to see": nobody else sees whom anna has verified.
	other := carl.Do("POST", v3+"/keys/query", query).OK()
	if !sig(other, "device_keys", string(anna.ID), anna.Device) || sig(other, "master_keys", string(bert.ID)) {
		t.Errorf("signatures as others see them: %s", other.Raw)
	}
	notices, err := c.Users.DeviceNotices(t.Context(), anna.ID, seq, 1<<40)
	clienttest.Must(t, err)
	if len(notices) != 2 {
		t.Errorf("notices: %v", notices)
	}
}

// Client-server API, "Server-side key backups".
func TestBackup(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	base := v3 + "/room_keys"
	anna.Do("GET", base+"/version", nil).Fails(404, "M_NOT_FOUND")
	body := map[string]any{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": map[string]any{"public_key": "x"}}
	v1 := anna.Do("POST", base+"/version", body).OK().Str("version")
	version := anna.Do("POST", base+"/version", body).OK().Str("version")
	if v1 != "1" || version != "2" {
		t.Fatalf("versions %q, %q", v1, version)
	}
	session := func(first, forwarded int, verified bool, data string) map[string]any {
		return map[string]any{"first_message_index": first, "forwarded_count": forwarded, "is_verified": verified, "session_data": map[string]any{"d": data}}
	}
	one := base + "/keys/!r:a.example/S1?version=" + version
	a := anna.Do("PUT", one, session(5, 2, false, "a")).OK()
	if a.Get("count") != 1.0 || a.Str("etag") == "" {
		t.Errorf("answer: %s", a.Raw)
	}
	etag := a.Str("etag")
	data := func() string { return anna.Do("GET", one, nil).OK().Str("session_data", "d") }
	// Which key is better: verified, then a lower first index, then fewer forwards.
	for _, tc := range []struct {
		key  map[string]any
		want string
	}{
		{session(6, 0, false, "worse index"), "a"}, {session(5, 3, false, "worse forwards"), "a"}, {session(5, 1, false, "b"), "b"},
		{session(4, 9, false, "c"), "c"}, {session(9, 9, true, "d"), "d"}, {session(0, 0, false, "not verified"), "d"},
	} {
		anna.Do("PUT", one, tc.key).OK()
		if got := data(); got != tc.want {
			t.Errorf("after %v: %q, want %q", tc.key, got, tc.want)
		}
	}
	anna.Do("PUT", base+"/keys/!r:a.example?version="+version, map[string]any{"sessions": map[string]any{"S2": session(0, 0, true, "e")}}).OK()
	a = anna.Do("PUT", base+"/keys?version="+version, map[string]any{"rooms": map[string]any{"!q:a.example": map[string]any{"sessions": map[string]any{"S3": session(0, 0, true, "f")}}}}).OK()
	if a.Get("count") != 3.0 || a.Str("etag") == etag {
		t.Errorf("answer: %s", a.Raw)
	}
	if a := anna.Do("GET", base+"/keys?version="+version, nil).OK(); a.Str("rooms", "!q:a.example", "sessions", "S3", "session_data", "d") != "f" {
		t.Errorf("all keys: %s", a.Raw)
	}
	if a := anna.Do("GET", base+"/keys/!r:a.example?version="+version, nil).OK(); len(a.Get("sessions").(map[string]any)) != 2 {
		t.Errorf("keys of a room: %s", a.Raw)
	}
	if a := anna.Do("GET", base+"/keys/!none:a.example?version="+version, nil).OK(); len(a.Get("sessions").(map[string]any)) != 0 {
		t.Errorf("keys of no room: %s", a.Raw)
	}
	if a := anna.Do("GET", base+"/version", nil).OK(); a.Str("version") != "2" || a.Get("count") != 3.0 {
		t.Errorf("version: %s", a.Raw)
	}
	wrong := anna.Do("PUT", base+"/keys/!r:a.example/S1?version=1", session(0, 0, true, "x")).Fails(403, "M_WRONG_ROOM_KEYS_VERSION")
	if wrong.Str("current_version") != "2" {
		t.Errorf("wrong version: %s", wrong.Raw)
	}
	if a := anna.Do("DELETE", base+"/keys/!r:a.example/S1?version="+version, nil).OK(); a.Get("count") != 2.0 {
		t.Errorf("deleted: %s", a.Raw)
	}
	anna.Do("GET", one, nil).Fails(404, "M_NOT_FOUND")
	changed := map[string]any{"algorithm": body["algorithm"], "auth_data": map[string]any{"public_key": "y"}, "version": version}
	anna.Do("PUT", base+"/version/2", changed).OK()
	if a := anna.Do("GET", base+"/version/2", nil).OK(); a.Str("auth_data", "public_key") != "y" {
		t.Errorf("auth data: %s", a.Raw)
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
		t.Run(name, func(t *testing.T) { anna.Do(tc.method, base+tc.path, tc.body).Fails(tc.status, tc.code) })
	}
	anna.Do("DELETE", base+"/version/2", nil).OK()
	anna.Do("DELETE", base+"/version/2", nil).Fails(404, "M_NOT_FOUND")
	if a := anna.Do("GET", base+"/version", nil).OK(); a.Str("version") != "1" {
		t.Errorf("latest version: %s", a.Raw)
	}
	if v := anna.Do("POST", base+"/version", body).OK().Str("version"); v != "3" {
		t.Errorf("a version number was used again: %s", v)
	}
}

// Client-server API, "Send-to-Device messaging".
func TestSendToDevice(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	second := c.Login(bert.ID, nil)
	body := map[string]any{"messages": map[string]any{
		string(bert.ID):     map[string]any{bert.Device: map[string]int{"n": 1}, "NONE": map[string]int{"n": 9}},
		string(anna.ID):     map[string]any{"*": map[string]int{"n": 2}},
		"@rita:far.example": map[string]any{"R": map[string]int{"n": 3}},
	}}
	path := v3 + "/sendToDevice/m.test/t1"
	anna.Do("PUT", path, body).OK()
	anna.Do("PUT", path, body).OK() // the same request again
	waiting := func(u *clienttest.User) int {
		msgs, _, err := c.Users.ToDeviceSince(t.Context(), u.ID, id.Device(u.Device), 0, 1<<40, 100, 1<<20)
		clienttest.Must(t, err)
		for _, m := range msgs {
			if m.Sender != anna.ID || m.Type != "m.test" {
				t.Errorf("message: %+v", m)
			}
		}
		return len(msgs)
	}
	if waiting(bert) != 1 || waiting(second) != 0 || waiting(anna) != 1 {
		t.Errorf("waiting: %d %d %d", waiting(bert), waiting(second), waiting(anna))
	}
	seq, err := c.Users.Seq(t.Context(), bert.ID)
	clienttest.Must(t, err)
	if n, err := c.Users.AckToDevice(t.Context(), bert.ID, id.Device(bert.Device), seq); err != nil || n != 1 || waiting(bert) != 0 {
		t.Errorf("acknowledged %d: %v", n, err)
	}
	anna.Do("PUT", v3+"/sendToDevice/m.test/t2", map[string]any{"messages": map[string]any{string(bert.ID): map[string]any{"*": map[string]int{"n": 1}}}}).OK()
	if waiting(bert) != 1 || waiting(second) != 1 {
		t.Error("not all devices were sent to")
	}
	var content []byte
	n := 0
	for _, pool := range c.Shards.All() {
		rows, err := pool.Query(t.Context(), `SELECT content FROM fed_edu WHERE server_name = 'far.example' AND edu_type = 'm.direct_to_device' AND origin = 'a.example'`)
		clienttest.Must(t, err)
		for rows.Next() {
			clienttest.Must(t, rows.Scan(&content))
			n++
		}
		clienttest.Must(t, rows.Err())
	}
	var edu struct {
		Sender, Type string
		MessageID    string                               `json:"message_id"`
		Messages     map[string]map[string]map[string]int `json:"messages"`
	}
	if n != 1 || json.Unmarshal(content, &edu) != nil || edu.Sender != string(anna.ID) || edu.Type != "m.test" || edu.MessageID == "" || edu.Messages["@rita:far.example"]["R"]["n"] != 3 {
		t.Errorf("%d EDUs: %s", n, content)
	}
	anna.Do("PUT", path+"x", map[string]any{}).Fails(400, "M_MISSING_PARAM")
	anna.Do("PUT", path+"x", map[string]any{"messages": map[string]any{"nobody": map[string]any{}}}).Fails(400, "M_INVALID_PARAM")
	anna.Do("PUT", path+"x", map[string]any{"messages": map[string]any{string(bert.ID): map[string]any{"X": "text"}}}).Fails(400, "M_BAD_JSON")
	anna.Do("PUT", path+"x", map[string]any{"messages": 5}).Fails(400, "M_BAD_JSON")
	anna.Do("PUT", v3+"/sendToDevice/m.test/"+strings.Repeat("t", 256), body).Fails(400, "M_INVALID_PARAM")
}

// Server-server API, "Device Management": the positions of devices are dense, as each names the one before as prev_id; those of
// cross-signing keys are others, and never one that was told before.
func TestDeviceStreams(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	c.Join(anna.ID, "!in:a.example", "join")
	device := newSigner(t)
	anna.Do("POST", v3+"/keys/upload", map[string]any{"device_keys": keysOf(anna, device)}).OK()
	keys := crossSigningOf(t, anna)
	anna.Do("POST", v3+"/keys/device_signing/upload", keys.upload).OK()
	anna.Do("POST", v3+"/keys/signatures/upload", map[string]any{string(anna.ID): map[string]any{
		anna.Device: keys.self.sign(t, keysOf(anna, device), anna.ID, "ed25519:"+keys.self.public)}}).OK()
	c.Rooms.Mu.Lock()
	defer c.Rooms.Mu.Unlock()
	var streams []string
	for _, d := range c.Rooms.Devices {
		streams = append(streams, fmt.Sprintf("%s%d", strings.ReplaceAll(d.DeviceId, anna.Device, "device "), d.StreamId))
	}
	if got := strings.Join(streams, ", "); got != "device 1, 2, device 2" {
		t.Errorf("told %s", got)
	}
}

// Client-server API, "Key management API": GET /keys/changes.
func TestKeyChanges(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	c.Join(anna.ID, "!in:a.example", "invite") // a room that no local user is in
	seq, err := c.Users.Seq(t.Context(), anna.ID)
	clienttest.Must(t, err)
	from := (&token.Sync{UserSeq: seq}).Encode(anna.ID)
	changed := func() []any {
		return anna.Do("GET", v3+"/keys/changes?from="+from, nil).OK().Get("changed").([]any)
	}
	if got := changed(); len(got) != 0 {
		t.Errorf("changed: %v", got)
	}
	anna.Do("POST", v3+"/keys/upload", map[string]any{"device_keys": keysOf(anna, newSigner(t))}).OK()
	if got := changed(); len(got) != 1 || got[0] != string(anna.ID) {
		t.Errorf("changed: %v", got)
	}
	anna.Do("GET", v3+"/keys/changes", nil).Fails(400, "M_MISSING_PARAM")
	for _, bad := range []string{"x", (&token.Sync{UserSeq: seq}).Encode(bert.ID)} {
		anna.Do("GET", v3+"/keys/changes?from="+bad, nil).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", v3+"/keys/changes?from="+from+"&to="+bad, nil).Fails(400, "M_INVALID_PARAM")
	}
}
