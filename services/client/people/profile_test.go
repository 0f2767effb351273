package people_test

import (
	"strings"
	"testing"

	fedv1 "hanse/proto/federation/v1"
	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// Client-server API, "Profiles".
func TestProfile(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	path := v3 + "/profile/" + string(anna.ID)
	if a := c.Do("GET", path, "", nil).OK(); a.Str("displayname") != "anna" || a.Get("avatar_url") != nil {
		t.Errorf("new profile: %s", a.Raw)
	}
	c.Do("GET", path+"/avatar_url", "", nil).Fails(404, "M_NOT_FOUND")
	anna.Do("PUT", path+"/displayname", map[string]string{"displayname": "Änne"}).OK()
	anna.Do("PUT", path+"/avatar_url", map[string]string{"avatar_url": "mxc://a.example/x"}).OK()
	anna.Do("PUT", path+"/m.tz", map[string]string{"m.tz": "Europe/Berlin"}).OK()
	anna.Do("PUT", path+"/org.example.list", map[string]any{"org.example.list": []int{1, 2}}).OK()
	a := c.Do("GET", path, "", nil).OK()
	if a.Str("displayname") != "Änne" || a.Str("avatar_url") != "mxc://a.example/x" || a.Str("m.tz") != "Europe/Berlin" || len(a.Get("org.example.list").([]any)) != 2 {
		t.Errorf("profile: %s", a.Raw)
	}
	if a := c.Do("GET", path+"/m.tz", "", nil).OK(); a.Str("m.tz") != "Europe/Berlin" || len(a.Body) != 1 {
		t.Errorf("field: %s", a.Raw)
	}
	anna.Do("DELETE", path+"/m.tz", nil).OK()
	c.Do("GET", path+"/m.tz", "", nil).Fails(404, "M_NOT_FOUND")
	anna.Do("PUT", path+"/displayname", map[string]string{"displayname": ""}).OK()
	c.Do("GET", path+"/displayname", "", nil).Fails(404, "M_NOT_FOUND")

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
		t.Run(name, func(t *testing.T) { anna.Do("PUT", path+"/"+tc.key, tc.body).Fails(tc.status, tc.code) })
	}
	bert.Do("PUT", path+"/displayname", map[string]string{"displayname": "x"}).Fails(403, "M_FORBIDDEN")
	c.Do("PUT", path+"/displayname", "", map[string]string{"displayname": "x"}).Fails(401, "M_MISSING_TOKEN")
	c.Do("GET", v3+"/profile/@nobody:a.example", "", nil).Fails(404, "M_NOT_FOUND")
	c.Do("GET", v3+"/profile/nonsense", "", nil).Fails(400, "M_INVALID_PARAM")
}

// Server-server API, "Query profile".
func TestRemoteProfile(t *testing.T) {
	c := clienttest.New(t)
	path := v3 + "/profile/@rita:far.example"
	c.Do("GET", path, "", nil).Fails(502, "M_UNKNOWN")
	c.Remote.Answer = func(q *fedv1.DoRequest) (int, string) {
		if q.Destination != "far.example" || q.Uri != "/_matrix/federation/v1/query/profile?user_id=%40rita%3Afar.example" || q.Origin != "a.example" {
			return 400, `{"errcode":"M_UNKNOWN"}`
		}
		return 200, `{"displayname":"Rita","avatar_url":null}`
	}
	if a := c.Do("GET", path, "", nil).OK(); a.Str("displayname") != "Rita" || len(a.Body) != 1 {
		t.Errorf("profile: %s", a.Raw)
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
		c.Remote.Answer = func(*fedv1.DoRequest) (int, string) { return tc.status, tc.body }
		c.Do("GET", path, "", nil).Fails(tc.want, tc.code)
	}
}
