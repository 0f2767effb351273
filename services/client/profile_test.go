package client

import (
	"strings"
	"testing"

	fedv1 "hanse/proto/federation/v1"
)

// Client-server API, "Profiles".
func TestProfile(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	path := v3 + "/profile/" + string(anna.id)
	if a := c.do("GET", path, "", nil).ok(); a.str("displayname") != "anna" || a.get("avatar_url") != nil {
		t.Errorf("new profile: %s", a.raw)
	}
	c.do("GET", path+"/avatar_url", "", nil).fails(404, "M_NOT_FOUND")
	anna.do("PUT", path+"/displayname", map[string]string{"displayname": "Änne"}).ok()
	anna.do("PUT", path+"/avatar_url", map[string]string{"avatar_url": "mxc://a.example/x"}).ok()
	anna.do("PUT", path+"/m.tz", map[string]string{"m.tz": "Europe/Berlin"}).ok()
	anna.do("PUT", path+"/org.example.list", map[string]any{"org.example.list": []int{1, 2}}).ok()
	a := c.do("GET", path, "", nil).ok()
	if a.str("displayname") != "Änne" || a.str("avatar_url") != "mxc://a.example/x" || a.str("m.tz") != "Europe/Berlin" || len(a.get("org.example.list").([]any)) != 2 {
		t.Errorf("profile: %s", a.raw)
	}
	if a := c.do("GET", path+"/m.tz", "", nil).ok(); a.str("m.tz") != "Europe/Berlin" || len(a.body) != 1 {
		t.Errorf("field: %s", a.raw)
	}
	anna.do("DELETE", path+"/m.tz", nil).ok()
	c.do("GET", path+"/m.tz", "", nil).fails(404, "M_NOT_FOUND")
	anna.do("PUT", path+"/displayname", map[string]string{"displayname": ""}).ok()
	c.do("GET", path+"/displayname", "", nil).fails(404, "M_NOT_FOUND")

	for name, tc := range map[string]struct {
		key    string
		body   any
		status int
		code   string
	}{
		"missing member":   {"displayname", map[string]any{}, 400, "M_MISSING_PARAM"},
		"not a string":     {"displayname", map[string]any{"displayname": 5}, 400, "M_INVALID_PARAM"},
		"long name":        {"displayname", map[string]any{"displayname": strings.Repeat("x", 257)}, 400, "M_INVALID_PARAM"},
		"bad field name":   {"Upper", map[string]any{"Upper": 1}, 400, "M_INVALID_PARAM"},
		"long field name":  {strings.Repeat("a", 256), map[string]any{}, 400, "M_KEY_TOO_LARGE"},
		"profile too big":  {"a.b", map[string]any{"a.b": strings.Repeat("x", 70<<10)}, 400, "M_PROFILE_TOO_LARGE"},
		"not JSON":         {"a.b", `{`, 400, "M_NOT_JSON"},
		"body much bigger": {"a.b", map[string]any{"a.b": strings.Repeat("x", 200<<10)}, 413, "M_TOO_LARGE"},
	} {
		t.Run(name, func(t *testing.T) { anna.do("PUT", path+"/"+tc.key, tc.body).fails(tc.status, tc.code) })
	}
	bert.do("PUT", path+"/displayname", map[string]string{"displayname": "x"}).fails(403, "M_FORBIDDEN")
	c.do("PUT", path+"/displayname", "", map[string]string{"displayname": "x"}).fails(401, "M_MISSING_TOKEN")
	c.do("GET", v3+"/profile/@nobody:a.example", "", nil).fails(404, "M_NOT_FOUND")
	c.do("GET", v3+"/profile/nonsense", "", nil).fails(400, "M_INVALID_PARAM")
}

// Server-server API, "Query profile".
func TestRemoteProfile(t *testing.T) {
	c := newCluster(t)
	path := v3 + "/profile/@rita:far.example"
	c.do("GET", path, "", nil).fails(502, "M_UNKNOWN")
	c.remote.answer = func(q *fedv1.DoRequest) (int, string) {
		if q.Destination != "far.example" || q.Uri != "/_matrix/federation/v1/query/profile?user_id=%40rita%3Afar.example" || q.Origin != "a.example" {
			return 400, `{"errcode":"M_UNKNOWN"}`
		}
		return 200, `{"displayname":"Rita","avatar_url":null}`
	}
	if a := c.do("GET", path, "", nil).ok(); a.str("displayname") != "Rita" || len(a.body) != 1 {
		t.Errorf("profile: %s", a.raw)
	}
	for _, tc := range []struct {
		status int
		body   string
		want   int
		code   string
	}{
		{404, `{"errcode":"M_NOT_FOUND","error":"no"}`, 404, "M_NOT_FOUND"},
		{401, `{"errcode":"M_UNKNOWN_TOKEN","error":"no"}`, 502, "M_UNKNOWN"}, // must not log our client out
		{200, `not JSON`, 502, "M_UNKNOWN"},
		{500, ``, 502, "M_UNKNOWN"},
	} {
		c.remote.answer = func(*fedv1.DoRequest) (int, string) { return tc.status, tc.body }
		c.do("GET", path, "", nil).fails(tc.want, tc.code)
	}
}
