package settings_test

import (
	"slices"
	"strings"
	"testing"

	"hanse/pkg/userdb"
	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// Client-server API, "Client Config".
func TestAccountData(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	base := v3 + "/user/" + string(anna.ID)
	before, err := c.Users.Seq(t.Context(), anna.ID)
	clienttest.Must(t, err)
	for _, path := range []string{base + "/account_data/org.example", base + "/rooms/!r:a.example/account_data/org.example"} {
		anna.Do("GET", path, nil).Fails(404, "M_NOT_FOUND")
		anna.Do("PUT", path, map[string]int{"a": 1}).OK()
		anna.Do("PUT", path, map[string]int{"a": 2}).OK()
		if a := anna.Do("GET", path, nil).OK(); a.Get("a") != 2.0 {
			t.Errorf("content: %s", a.Raw)
		}
		anna.Do("PUT", path, `[]`).Fails(400, "M_BAD_JSON")
		anna.Do("PUT", path, `{`).Fails(400, "M_NOT_JSON")
		bert.Do("GET", path, nil).Fails(403, "M_FORBIDDEN")
		bert.Do("PUT", path, map[string]int{"a": 1}).Fails(403, "M_FORBIDDEN")
	}
	data, err := c.Users.AccountDataSince(t.Context(), anna.ID, before, 1<<40)
	clienttest.Must(t, err)
	if len(data) != 2 || data[0].Seq >= data[1].Seq {
		t.Errorf("changes: %+v", data)
	}
	// MSC3391: an entry is deleted, also by an empty object, and again; whoever had it is told of an empty object.
	unstable := strings.Replace(base, v3, "/_matrix/client/unstable/org.matrix.msc3391", 1)
	for _, path := range []string{"/account_data/org.example", "/rooms/!r:a.example/account_data/org.example"} {
		for range 2 {
			anna.Do("DELETE", unstable+path, nil).OK()
		}
		anna.Do("GET", base+path, nil).Fails(404, "M_NOT_FOUND")
		anna.Do("PUT", base+path, map[string]any{"a": 1}).OK()
		anna.Do("PUT", base+path, map[string]any{}).OK()
		anna.Do("GET", base+path, nil).Fails(404, "M_NOT_FOUND")
	}
	seq, err := c.Users.Seq(t.Context(), anna.ID)
	clienttest.Must(t, err)
	for after, want := range map[int64]int{0: 0, 1: 2} {
		data, err := c.Users.AccountDataSince(t.Context(), anna.ID, after, seq)
		clienttest.Must(t, err)
		data = slices.DeleteFunc(data, func(d userdb.AccountData) bool { return d.Type != "org.example" })
		if len(data) != want || slices.ContainsFunc(data, func(d userdb.AccountData) bool { return string(d.Content) != "{}" }) {
			t.Errorf("told after %d: %v, want %d deletions", after, data, want)
		}
	}
	anna.Do("DELETE", unstable+"/account_data/m.push_rules", nil).Fails(405, "M_BAD_JSON")
	bert.Do("DELETE", unstable+"/account_data/org.example", nil).Fails(403, "M_FORBIDDEN")
	anna.Do("PUT", base+"/account_data/m.push_rules", map[string]any{}).Fails(405, "M_BAD_JSON")
	anna.Do("PUT", base+"/account_data/m.fully_read", map[string]any{}).Fails(405, "M_BAD_JSON")
	anna.Do("PUT", base+"/rooms/!r:a.example/account_data/m.fully_read", map[string]any{}).Fails(405, "M_BAD_JSON")
	anna.Do("PUT", base+"/rooms/nonsense/account_data/x", map[string]any{}).Fails(400, "M_INVALID_PARAM")
	if a := anna.Do("GET", base+"/account_data/m.push_rules", nil).OK(); a.Get("global", "override") == nil {
		t.Errorf("push rules: %s", a.Raw)
	}
}

// Client-server API, "Room Tagging".
func TestTags(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	base := v3 + "/user/" + string(anna.ID) + "/rooms/!r:a.example/tags"
	if a := anna.Do("GET", base, nil).OK(); len(a.Get("tags").(map[string]any)) != 0 {
		t.Errorf("tags: %s", a.Raw)
	}
	anna.Do("PUT", base+"/m.favourite", map[string]any{"order": 0.5}).OK()
	anna.Do("PUT", base+"/u.wörk", map[string]any{}).OK()
	if a := anna.Do("GET", base, nil).OK(); a.Get("tags", "m.favourite", "order") != 0.5 || a.Get("tags", "u.wörk") == nil {
		t.Errorf("tags: %s", a.Raw)
	}
	anna.Do("DELETE", base+"/m.favourite", nil).OK()
	if a := anna.Do("GET", base, nil).OK(); a.Get("tags", "m.favourite") != nil {
		t.Errorf("tags: %s", a.Raw)
	}
	anna.Do("PUT", base+"/x", map[string]any{"order": 2}).Fails(400, "M_INVALID_PARAM")
	anna.Do("PUT", base+"/x", map[string]any{"order": "first"}).Fails(400, "M_BAD_JSON")
	anna.Do("PUT", base+"/"+strings.Repeat("x", 256), map[string]any{}).Fails(400, "M_INVALID_PARAM")
}

// Client-server API, "Filtering".
func TestFilters(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	base := v3 + "/user/" + string(anna.ID) + "/filter"
	f := map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": 5}}, "x": 1}
	first := anna.Do("POST", base, f).OK().Str("filter_id")
	if again := anna.Do("POST", base, f).OK().Str("filter_id"); again != first {
		t.Errorf("the same filter has two numbers: %s, %s", first, again)
	}
	other := anna.Do("POST", base, map[string]any{}).OK().Str("filter_id")
	if other == first {
		t.Error("two filters have one number")
	}
	if a := anna.Do("GET", base+"/"+first, nil).OK(); a.Get("room", "timeline", "limit") != 5.0 || a.Get("x") != 1.0 {
		t.Errorf("filter: %s", a.Raw)
	}
	anna.Do("GET", base+"/99", nil).Fails(404, "M_NOT_FOUND")
	anna.Do("GET", base+"/abc", nil).Fails(400, "M_INVALID_PARAM")
	bert.Do("GET", base+"/"+first, nil).Fails(403, "M_FORBIDDEN")
	for name, body := range map[string]any{
		"limit":  map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": 0}}},
		"sender": map[string]any{"presence": map[string]any{"senders": []string{"nobody"}}},
		"room":   map[string]any{"room": map[string]any{"rooms": []string{"nowhere"}}},
		"format": map[string]any{"event_format": "xml"},
	} {
		t.Run(name, func(t *testing.T) { anna.Do("POST", base, body).Fails(400, "M_INVALID_PARAM") })
	}
	anna.Do("POST", base, map[string]any{"room": 5}).Fails(400, "M_BAD_JSON")
	anna.Do("POST", base, map[string]any{"x": strings.Repeat("y", 70<<10)}).Fails(413, "M_TOO_LARGE")
}

// Client-server API, "Push Rules: API".
func TestPushRules(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	base := v3 + "/pushrules/global"
	if a := anna.Do("GET", v3+"/pushrules/", nil).OK(); a.Get("global", "underride") == nil {
		t.Errorf("rules: %s", a.Raw)
	}
	anna.Do("GET", base+"/", nil).OK()
	notify := []any{"notify"}
	anna.Do("PUT", base+"/content/cake", map[string]any{"actions": notify, "pattern": "cake"}).OK()
	anna.Do("PUT", base+"/content/tea", map[string]any{"actions": notify, "pattern": "tea"}).OK()
	anna.Do("PUT", base+"/content/rum?after=cake", map[string]any{"actions": notify, "pattern": "rum"}).OK()
	var order []string
	for _, r := range anna.Do("GET", base+"/", nil).OK().Get("content").([]any) {
		order = append(order, r.(map[string]any)["rule_id"].(string))
	}
	if got := strings.Join(order[:3], " "); got != "tea cake rum" {
		t.Errorf("order: %v", order)
	}
	if a := anna.Do("GET", base+"/content/cake", nil).OK(); a.Str("pattern") != "cake" || a.Get("enabled") != true || a.Get("default") != false {
		t.Errorf("rule: %s", a.Raw)
	}
	anna.Do("PUT", base+"/content/cake/enabled", map[string]bool{"enabled": false}).OK()
	if a := anna.Do("GET", base+"/content/cake/enabled", nil).OK(); a.Get("enabled") != false {
		t.Errorf("enabled: %s", a.Raw)
	}
	anna.Do("PUT", base+"/override/.m.rule.suppress_notices/actions", map[string]any{"actions": notify}).OK()
	if a := anna.Do("GET", base+"/override/.m.rule.suppress_notices/actions", nil).OK(); len(a.Get("actions").([]any)) != 1 {
		t.Errorf("actions: %s", a.Raw)
	}
	data := anna.Do("GET", v3+"/user/"+string(anna.ID)+"/account_data/m.push_rules", nil).OK()
	if data.Get("global", "content") == nil {
		t.Errorf("account data: %s", data.Raw)
	}
	anna.Do("DELETE", base+"/content/tea", nil).OK()
	anna.Do("GET", base+"/content/tea", nil).Fails(404, "M_NOT_FOUND")
	for name, tc := range map[string]struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		"unknown kind":   {"PUT", "/odd/x", map[string]any{"actions": notify}, 400, "M_INVALID_PARAM"},
		"dot":            {"PUT", "/content/.x", map[string]any{"actions": notify, "pattern": "x"}, 400, "M_INVALID_PARAM"},
		"slash":          {"PUT", "/content/a%2Fb", map[string]any{"actions": notify, "pattern": "x"}, 400, "M_INVALID_PARAM"},
		"no actions":     {"PUT", "/content/x", map[string]any{"pattern": "x"}, 400, "M_MISSING_PARAM"},
		"odd action":     {"PUT", "/content/x", map[string]any{"pattern": "x", "actions": []any{"sing"}}, 400, "M_INVALID_PARAM"},
		"no pattern":     {"PUT", "/content/x", map[string]any{"actions": notify}, 400, "M_INVALID_PARAM"},
		"odd condition":  {"PUT", "/override/x", map[string]any{"actions": notify, "conditions": []any{map[string]any{}}}, 400, "M_BAD_JSON"},
		"unknown anchor": {"PUT", "/content/x?before=y", map[string]any{"pattern": "x", "actions": notify}, 400, "M_UNKNOWN"},
		"enable nothing": {"PUT", "/content/x/enabled", map[string]bool{"enabled": true}, 404, "M_NOT_FOUND"},
		"enable how":     {"PUT", "/content/cake/enabled", map[string]any{}, 400, "M_MISSING_PARAM"},
		"delete nothing": {"DELETE", "/content/x", nil, 404, "M_NOT_FOUND"},
		"delete default": {"DELETE", "/override/.m.rule.master", nil, 400, "M_INVALID_PARAM"},
		"odd attribute":  {"GET", "/content/cake/colour", nil, 404, "M_UNRECOGNIZED"},
	} {
		t.Run(name, func(t *testing.T) { anna.Do(tc.method, base+tc.path, tc.body).Fails(tc.status, tc.code) })
	}
}

// Client-server API, "Push Notifications".
func TestPushers(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	q := func(more map[string]any) map[string]any {
		p := map[string]any{"pushkey": "k", "kind": "http", "app_id": "app", "app_display_name": "App", "device_display_name": "Phone",
			"lang": "de", "data": map[string]any{"url": "https://push.example/_matrix/push/v1/notify"}}
		for k, v := range more {
			p[k] = v
		}
		return p
	}
	count := func(u *clienttest.User) int {
		return len(u.Do("GET", v3+"/pushers", nil).OK().Get("pushers").([]any))
	}
	anna.Do("POST", v3+"/pushers/set", q(nil)).OK()
	anna.Do("POST", v3+"/pushers/set", q(map[string]any{"lang": "en"})).OK()
	if count(anna) != 1 {
		t.Error("one pusher expected")
	}
	bert.Do("POST", v3+"/pushers/set", q(map[string]any{"append": true})).OK()
	if count(anna) != 1 || count(bert) != 1 {
		t.Error("append took the pusher away")
	}
	bert.Do("POST", v3+"/pushers/set", q(nil)).OK()
	if count(anna) != 0 || count(bert) != 1 {
		t.Error("a pushkey belongs to who set it last")
	}
	// MSC3881: a pusher is on unless it is turned off, which another device may do; it stays that of the one that set it.
	first := func(u *clienttest.User) map[string]any {
		return u.Do("GET", v3+"/pushers", nil).OK().Get("pushers").([]any)[0].(map[string]any)
	}
	device := bert.Do("GET", v3+"/account/whoami", nil).OK().Str("device_id")
	if p := first(bert); p["org.matrix.msc3881.enabled"] != true || p["enabled"] != true || p["org.matrix.msc3881.device_id"] != device || p["device_id"] != device {
		t.Errorf("%v", p)
	}
	bert.Do("POST", v3+"/pushers/set", q(map[string]any{"org.matrix.msc3881.enabled": false})).OK()
	if p := first(bert); p["enabled"] != false {
		t.Errorf("%v", p)
	}
	bert.Do("POST", v3+"/pushers/set", q(map[string]any{"enabled": true, "org.matrix.msc4076.disable_badge_count": true})).OK()
	if p := first(bert); p["enabled"] != true || p["data"].(map[string]any)["org.matrix.msc4076.disable_badge_count"] != true {
		t.Errorf("%v", p)
	}
	bert.Do("POST", v3+"/pushers/set", map[string]any{"pushkey": "k", "app_id": "app", "kind": nil}).OK()
	if count(bert) != 0 {
		t.Error("not deleted")
	}
	for name, tc := range map[string]struct {
		body map[string]any
		code string
	}{
		"no kind":     {map[string]any{"pushkey": "k", "app_id": "app"}, "M_MISSING_PARAM"},
		"no pushkey":  {map[string]any{"app_id": "app", "kind": nil}, "M_MISSING_PARAM"},
		"odd kind":    {q(map[string]any{"kind": "pigeon"}), "M_INVALID_PARAM"},
		"no url":      {q(map[string]any{"data": map[string]any{}}), "M_INVALID_PARAM"},
		"odd path":    {q(map[string]any{"data": map[string]any{"url": "https://x.example/notify"}}), "M_INVALID_PARAM"},
		"loopback":    {q(map[string]any{"data": map[string]any{"url": "http://127.0.0.1/_matrix/push/v1/notify"}}), "M_INVALID_PARAM"},
		"metadata":    {q(map[string]any{"data": map[string]any{"url": "http://[::ffff:169.254.169.254]/_matrix/push/v1/notify"}}), "M_INVALID_PARAM"},
		"no data":     {q(map[string]any{"data": 5}), "M_MISSING_PARAM"},
		"long key":    {q(map[string]any{"pushkey": strings.Repeat("k", 513)}), "M_INVALID_PARAM"},
		"long app id": {q(map[string]any{"app_id": strings.Repeat("k", 65)}), "M_INVALID_PARAM"},
	} {
		t.Run(name, func(t *testing.T) { anna.Do("POST", v3+"/pushers/set", tc.body).Fails(400, tc.code) })
	}
}
