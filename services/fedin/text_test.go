package fedin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
)

// awkward are ends of strings, as they stand in JSON, that something on the way cannot hold: PostgreSQL, an index, a header,
// UTF-8. Those without a canonical form cannot be signed, so whoever sends them is told so.
var awkward = []struct {
	name, text string
	unsignable bool
}{
	{"NUL", `\u0000`, false}, {"lone surrogate", `\ud800`, true}, {"U+FFFD", `\ufffd`, false}, {"U+10FFFF", `\udbff\udfff`, false},
	{"newline", `\n`, false}, {"DEL", `\u007f`, false}, {"invalid UTF-8", "\xff", true}, {"long", randomText(6000), false},
}

// randomText does not compress, as an index would.
func randomText(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[r.IntN(36)]
	}
	return string(b)
}

// spots returns copies of a JSON value in each of which one string, the name of a member or a value, ends in a mark.
func spots(v any, mark string) (out []any) {
	switch v := v.(type) {
	case string:
		out = append(out, v+mark)
	case []any:
		for i, e := range v {
			for _, changed := range spots(e, mark) {
				list := append([]any{}, v...)
				list[i] = changed
				out = append(out, list)
			}
		}
	case map[string]any:
		with := func(drop, key string, value any) map[string]any {
			m := map[string]any{}
			for k, e := range v {
				if k != drop {
					m[k] = e
				}
			}
			m[key] = value
			return m
		}
		for key, e := range v {
			out = append(out, with(key, key+mark, e))
			for _, changed := range spots(e, mark) {
				out = append(out, with(key, key, changed))
			}
		}
	}
	return out
}

// raw sends bytes that may have no canonical form, signed as if they were something else.
func (p *peer) raw(method, uri string, content []byte) *reply {
	p.w.t.Helper()
	header, err := signing.SignRequest(method, uri, p.name, ours, []byte(`{}`), p.key)
	must(p.w.t, err)
	req, err := http.NewRequestWithContext(p.w.t.Context(), method, p.w.url+uri, bytes.NewReader(content))
	must(p.w.t, err)
	req.Header.Set("Authorization", header)
	req.Host = string(ours)
	resp, err := http.DefaultClient.Do(req)
	must(p.w.t, err)
	defer resp.Body.Close()
	return &reply{p.w.t, method + " " + uri, resp.StatusCode, nil}
}

// Server-server API, "EDUs": whatever is wrong with the text of an EDU costs that EDU only. The others of its transaction
// are taken, and so is what comes later.
func TestAwkwardTextInEDUs(t *testing.T) {
	w := newInbound(t)
	anna := w.account("anna")
	room := w.create("11", anna, public)
	p := w.peer("text.test")
	j := p.join(room, p.user("eve"))
	eve, said := string(j.user), w.say(room, anna, "read me")
	edus := map[string]any{
		"m.typing": map[string]any{"room_id": string(room), "user_id": eve, "typing": true},
		"m.receipt": map[string]any{string(room): map[string]any{"m.read": map[string]any{eve: map[string]any{
			"data": map[string]any{"ts": 1, "thread_id": "main"}, "event_ids": []any{string(said)}}}}},
		"m.presence": map[string]any{"push": []any{map[string]any{"user_id": eve, "presence": "online", "status_msg": "here", "last_active_ago": 1}}},
		"m.direct_to_device": map[string]any{"sender": eve, "type": "m.bad", "message_id": "bad",
			"messages": map[string]any{string(anna): map[string]any{"DEVICE": map[string]any{"body": "x"}}}},
		"m.device_list_update": map[string]any{"user_id": eve, "device_id": "D", "device_display_name": "phone", "stream_id": 1, "prev_id": []any{},
			"keys": map[string]any{"user_id": eve, "device_id": "D", "algorithms": []any{"x"}, "keys": map[string]any{"ed25519:D": "k"}}},
		"m.signing_key_update": map[string]any{"user_id": eve, "master_key": map[string]any{"user_id": eve, "usage": []any{"master"}}},
	}
	honest := 0
	arrived := func() (n int) {
		part := partition.Of(string(anna))
		must(t, w.shards.For(part).QueryRow(t.Context(), `SELECT count(*) FROM to_device WHERE part = $1 AND user_id = $2 AND type = 'm.honest'`,
			int32(part), string(anna)).Scan(&n))
		return n
	}
	next := func() map[string]any {
		honest++
		return eduOf("m.direct_to_device", map[string]any{"sender": eve, "type": "m.honest", "message_id": fmt.Sprint("honest", honest),
			"messages": map[string]any{string(anna): map[string]any{"*": map[string]any{}}}})
	}
	// Somebody must have asked for the devices, and there must be one to send to.
	_, err := w.shards.For(partition.Of(eve)).Exec(t.Context(), `INSERT INTO remote_device_list (part, user_id, stream_id, stale, content) VALUES ($1, $2, 0, false, '{"devices":[]}')`,
		int32(partition.Of(eve)), eve)
	must(t, err)
	_, err = w.shards.For(partition.Of(string(anna))).Exec(t.Context(), `INSERT INTO device (part, user_id, device_id, created_ts) VALUES ($1, $2, 'DEVICE', 1)`,
		int32(partition.Of(string(anna))), string(anna))
	must(t, err)
	for typ, content := range edus {
		for _, a := range awkward {
			for _, bad := range spots(eduOf(typ, content), "MARK") {
				body, err := json.Marshal(p.body(nil, bad, next()))
				must(t, err)
				uri := fedPath("send", fmt.Sprint("text", w.n.Add(1)))
				body = bytes.Replace(body, []byte("MARK"), []byte(a.text), 1)
				if a.unsignable {
					if r := p.raw("PUT", uri, body); r.status != http.StatusBadRequest {
						t.Errorf("%s with %s: %d, %.300s", typ, a.name, r.status, body)
					}
					honest--
					continue
				}
				if r := p.do("PUT", uri, body); r.status != http.StatusOK {
					t.Fatalf("%s with %s: %d %s, %.300s", typ, a.name, r.status, r.raw, body)
				}
			}
			p.transaction(nil, next()).ok()
			if n := arrived(); n != honest {
				t.Fatalf("%s with %s: %d of %d messages arrived", typ, a.name, n, honest)
			}
		}
	}
}

// Awkward text in paths and bodies of other endpoints is the mistake of who asks: never 5xx.
func TestAwkwardTextInFederation(t *testing.T) {
	w := newInbound(t)
	anna := w.account("anna")
	room := w.create("11", anna, public)
	p := w.peer("text.test")
	p.join(room, p.user("eve"))
	for _, end := range []string{"%00", "%ff", "%ef%bf%bd", "%f4%8f%bf%bf", "%0a", "%7f", randomText(6000)} {
		for _, uri := range []string{"/make_join/!r%s:text.test/@eve:text.test", "/make_join/" + string(room) + "/@e%s:text.test", "/state/!r%s:x?event_id=$x",
			"/state_ids/" + string(room) + "?event_id=$x%s", "/event/$x%s", "/event_auth/" + string(room) + "/$x%s", "/backfill/" + string(room) + "?limit=1&v=$x%s",
			"/timestamp_to_event/!r%s:x?ts=1&dir=f", "/query/profile?user_id=@a%s:ours.test", "/query/profile?user_id=" + string(anna) + "&field=f%s",
			"/query/directory?room_alias=%%23a%s:ours.test", "/publicRooms?since=%s", "/hierarchy/!r%s:x", "/user/devices/@a%s:ours.test"} {
			if r := p.do("GET", fedv1Path+fmt.Sprintf(uri, end), nil); r.status >= 500 {
				t.Errorf("GET %.200s: %d %s", uri, r.status, r.raw)
			}
		}
		for _, uri := range []string{"/_matrix/key/v2/query/ser%sver.test", "/_matrix/key/v2/query/text.test/ed25519:%s"} {
			if r := p.do("GET", fmt.Sprintf(uri, end), nil); r.status >= 500 {
				t.Errorf("GET %.200s: %d %s", uri, r.status, r.raw)
			}
		}
		status := p.do("PUT", fedv1Path+"/send/t"+end, p.body(nil)).status
		if status >= 500 || end == "%00" && status != http.StatusBadRequest {
			t.Errorf("PUT /send/t%.20s: %d", end, status)
		}
	}
	bodies := map[string]any{
		"/user/keys/claim":                    map[string]any{"one_time_keys": map[string]any{string(anna): map[string]any{"DEVICE": "signed_curve25519"}}},
		"/user/keys/query":                    map[string]any{"device_keys": map[string]any{string(anna): []any{"DEVICE"}}},
		"/publicRooms":                        map[string]any{"since": "x", "filter": map[string]any{"generic_search_term": "x", "room_types": []any{"x"}}},
		"/get_missing_events/" + string(room): map[string]any{"earliest_events": []any{"$x"}, "latest_events": []any{"$y"}},
	}
	for uri, content := range bodies {
		for _, a := range awkward {
			for _, bad := range spots(content, "MARK") {
				body, err := json.Marshal(bad)
				must(t, err)
				body = bytes.Replace(body, []byte("MARK"), []byte(a.text), 1)
				status := 0
				if a.unsignable {
					status = p.raw("POST", fedv1Path+uri, body).status
				} else {
					status = p.do("POST", fedv1Path+uri, body).status
				}
				if status >= 500 || strings.HasSuffix(uri, "claim") && a.name == "NUL" && bytes.Contains(body, []byte(`"one_time_keys"`)) && status != http.StatusBadRequest {
					t.Errorf("POST %s with %s: %d, %.200s", uri, a.name, status, body)
				}
			}
		}
	}
}
