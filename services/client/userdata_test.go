package client

import (
	"slices"
	"strings"
	"testing"

	"hanse/pkg/userdb"
)

// Client-server API, "Client Config".
func TestAccountData(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	base := v3 + "/user/" + string(anna.id)
	before, err := c.users.Seq(t.Context(), anna.id)
	must(t, err)
	for _, path := range []string{base + "/account_data/org.example", base + "/rooms/!r:a.example/account_data/org.example"} {
		anna.do("GET", path, nil).fails(404, "M_NOT_FOUND")
		anna.do("PUT", path, map[string]int{"a": 1}).ok()
		anna.do("PUT", path, map[string]int{"a": 2}).ok()
		if a := anna.do("GET", path, nil).ok(); a.get("a") != 2.0 {
			t.Errorf("content: %s", a.raw)
		}
		anna.do("PUT", path, `[]`).fails(400, "M_BAD_JSON")
		anna.do("PUT", path, `{`).fails(400, "M_NOT_JSON")
		bert.do("GET", path, nil).fails(403, "M_FORBIDDEN")
		bert.do("PUT", path, map[string]int{"a": 1}).fails(403, "M_FORBIDDEN")
	}
	data, err := c.users.AccountDataSince(t.Context(), anna.id, before, 1<<40)
	must(t, err)
	if len(data) != 2 || data[0].Seq >= data[1].Seq {
		t.Errorf("changes: %+v", data)
	}
	// MSC3391: an entry is deleted, also by an empty object, and again; whoever had it is told of an empty object.
	unstable := strings.Replace(base, v3, "/_matrix/client/unstable/org.matrix.msc3391", 1)
	for _, path := range []string{"/account_data/org.example", "/rooms/!r:a.example/account_data/org.example"} {
		for range 2 {
			anna.do("DELETE", unstable+path, nil).ok()
		}
		anna.do("GET", base+path, nil).fails(404, "M_NOT_FOUND")
		anna.do("PUT", base+path, map[string]any{"a": 1}).ok()
		anna.do("PUT", base+path, map[string]any{}).ok()
		anna.do("GET", base+path, nil).fails(404, "M_NOT_FOUND")
	}
	seq, err := c.users.Seq(t.Context(), anna.id)
	must(t, err)
	for after, want := range map[int64]int{0: 0, 1: 2} {
		data, err := c.users.AccountDataSince(t.Context(), anna.id, after, seq)
		must(t, err)
		data = slices.DeleteFunc(data, func(d userdb.AccountData) bool { return d.Type != "org.example" })
		if len(data) != want || slices.ContainsFunc(data, func(d userdb.AccountData) bool { return string(d.Content) != "{}" }) {
			t.Errorf("told after %d: %v, want %d deletions", after, data, want)
		}
	}
	anna.do("DELETE", unstable+"/account_data/m.push_rules", nil).fails(405, "M_BAD_JSON")
	bert.do("DELETE", unstable+"/account_data/org.example", nil).fails(403, "M_FORBIDDEN")
	anna.do("PUT", base+"/account_data/m.push_rules", map[string]any{}).fails(405, "M_BAD_JSON")
	anna.do("PUT", base+"/account_data/m.fully_read", map[string]any{}).fails(405, "M_BAD_JSON")
	anna.do("PUT", base+"/rooms/!r:a.example/account_data/m.fully_read", map[string]any{}).fails(405, "M_BAD_JSON")
	anna.do("PUT", base+"/rooms/nonsense/account_data/x", map[string]any{}).fails(400, "M_INVALID_PARAM")
	if a := anna.do("GET", base+"/account_data/m.push_rules", nil).ok(); a.get("global", "override") == nil {
		t.Errorf("push rules: %s", a.raw)
	}
}

// Client-server API, "Room Tagging".
func TestTags(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	base := v3 + "/user/" + string(anna.id) + "/rooms/!r:a.example/tags"
	if a := anna.do("GET", base, nil).ok(); len(a.get("tags").(map[string]any)) != 0 {
		t.Errorf("tags: %s", a.raw)
	}
	anna.do("PUT", base+"/m.favourite", map[string]any{"order": 0.5}).ok()
	anna.do("PUT", base+"/u.wörk", map[string]any{}).ok()
	if a := anna.do("GET", base, nil).ok(); a.get("tags", "m.favourite", "order") != 0.5 || a.get("tags", "u.wörk") == nil {
		t.Errorf("tags: %s", a.raw)
	}
	anna.do("DELETE", base+"/m.favourite", nil).ok()
	if a := anna.do("GET", base, nil).ok(); a.get("tags", "m.favourite") != nil {
		t.Errorf("tags: %s", a.raw)
	}
	anna.do("PUT", base+"/x", map[string]any{"order": 2}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", base+"/x", map[string]any{"order": "first"}).fails(400, "M_BAD_JSON")
	anna.do("PUT", base+"/"+strings.Repeat("x", 256), map[string]any{}).fails(400, "M_INVALID_PARAM")
}

// Client-server API, "Filtering".
func TestFilters(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	base := v3 + "/user/" + string(anna.id) + "/filter"
	f := map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": 5}}, "x": 1}
	first := anna.do("POST", base, f).ok().str("filter_id")
	if again := anna.do("POST", base, f).ok().str("filter_id"); again != first {
		t.Errorf("the same filter has two numbers: %s, %s", first, again)
	}
	other := anna.do("POST", base, map[string]any{}).ok().str("filter_id")
	if other == first {
		t.Error("two filters have one number")
	}
	if a := anna.do("GET", base+"/"+first, nil).ok(); a.get("room", "timeline", "limit") != 5.0 || a.get("x") != 1.0 {
		t.Errorf("filter: %s", a.raw)
	}
	anna.do("GET", base+"/99", nil).fails(404, "M_NOT_FOUND")
	anna.do("GET", base+"/abc", nil).fails(400, "M_INVALID_PARAM")
	bert.do("GET", base+"/"+first, nil).fails(403, "M_FORBIDDEN")
	for name, body := range map[string]any{
		"limit":  map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": 0}}},
		"sender": map[string]any{"presence": map[string]any{"senders": []string{"nobody"}}},
		"room":   map[string]any{"room": map[string]any{"rooms": []string{"nowhere"}}},
		"format": map[string]any{"event_format": "xml"},
	} {
		t.Run(name, func(t *testing.T) { anna.do("POST", base, body).fails(400, "M_INVALID_PARAM") })
	}
	anna.do("POST", base, map[string]any{"room": 5}).fails(400, "M_BAD_JSON")
	anna.do("POST", base, map[string]any{"x": strings.Repeat("y", 70<<10)}).fails(413, "M_TOO_LARGE")
}

// Client-server API, "Push Rules: API".
func TestPushRules(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	base := v3 + "/pushrules/global"
	if a := anna.do("GET", v3+"/pushrules/", nil).ok(); a.get("global", "underride") == nil {
		t.Errorf("rules: %s", a.raw)
	}
	anna.do("GET", base+"/", nil).ok()
	notify := []any{"notify"}
	anna.do("PUT", base+"/content/cake", map[string]any{"actions": notify, "pattern": "cake"}).ok()
	anna.do("PUT", base+"/content/tea", map[string]any{"actions": notify, "pattern": "tea"}).ok()
	anna.do("PUT", base+"/content/rum?after=cake", map[string]any{"actions": notify, "pattern": "rum"}).ok()
	var order []string
	for _, r := range anna.do("GET", base+"/", nil).ok().get("content").([]any) {
		order = append(order, r.(map[string]any)["rule_id"].(string))
	}
	if got := strings.Join(order[:3], " "); got != "tea cake rum" {
		t.Errorf("order: %v", order)
	}
	if a := anna.do("GET", base+"/content/cake", nil).ok(); a.str("pattern") != "cake" || a.get("enabled") != true || a.get("default") != false {
		t.Errorf("rule: %s", a.raw)
	}
	anna.do("PUT", base+"/content/cake/enabled", map[string]bool{"enabled": false}).ok()
	if a := anna.do("GET", base+"/content/cake/enabled", nil).ok(); a.get("enabled") != false {
		t.Errorf("enabled: %s", a.raw)
	}
	anna.do("PUT", base+"/override/.m.rule.suppress_notices/actions", map[string]any{"actions": notify}).ok()
	if a := anna.do("GET", base+"/override/.m.rule.suppress_notices/actions", nil).ok(); len(a.get("actions").([]any)) != 1 {
		t.Errorf("actions: %s", a.raw)
	}
	data := anna.do("GET", v3+"/user/"+string(anna.id)+"/account_data/m.push_rules", nil).ok()
	if data.get("global", "content") == nil {
		t.Errorf("account data: %s", data.raw)
	}
	anna.do("DELETE", base+"/content/tea", nil).ok()
	anna.do("GET", base+"/content/tea", nil).fails(404, "M_NOT_FOUND")
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
		t.Run(name, func(t *testing.T) { anna.do(tc.method, base+tc.path, tc.body).fails(tc.status, tc.code) })
	}
}

// Client-server API, "Push Notifications".
func TestPushers(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	q := func(more map[string]any) map[string]any {
		p := map[string]any{"pushkey": "k", "kind": "http", "app_id": "app", "app_display_name": "App", "device_display_name": "Phone",
			"lang": "de", "data": map[string]any{"url": "https://push.example/_matrix/push/v1/notify"}}
		for k, v := range more {
			p[k] = v
		}
		return p
	}
	count := func(u *user) int { return len(u.do("GET", v3+"/pushers", nil).ok().get("pushers").([]any)) }
	anna.do("POST", v3+"/pushers/set", q(nil)).ok()
	anna.do("POST", v3+"/pushers/set", q(map[string]any{"lang": "en"})).ok()
	if count(anna) != 1 {
		t.Error("one pusher expected")
	}
	bert.do("POST", v3+"/pushers/set", q(map[string]any{"append": true})).ok()
	if count(anna) != 1 || count(bert) != 1 {
		t.Error("append took the pusher away")
	}
	bert.do("POST", v3+"/pushers/set", q(nil)).ok()
	if count(anna) != 0 || count(bert) != 1 {
		t.Error("a pushkey belongs to who set it last")
	}
	// MSC3881: a pusher is on unless it is turned off, which another device may do; it stays that of the one that set it.
	first := func(u *user) map[string]any {
		return u.do("GET", v3+"/pushers", nil).ok().get("pushers").([]any)[0].(map[string]any)
	}
	device := bert.do("GET", v3+"/account/whoami", nil).ok().str("device_id")
	if p := first(bert); p["org.matrix.msc3881.enabled"] != true || p["enabled"] != true || p["org.matrix.msc3881.device_id"] != device || p["device_id"] != device {
		t.Errorf("%v", p)
	}
	bert.do("POST", v3+"/pushers/set", q(map[string]any{"org.matrix.msc3881.enabled": false})).ok()
	if p := first(bert); p["enabled"] != false {
		t.Errorf("%v", p)
	}
	bert.do("POST", v3+"/pushers/set", q(map[string]any{"enabled": true, "org.matrix.msc4076.disable_badge_count": true})).ok()
	if p := first(bert); p["enabled"] != true || p["data"].(map[string]any)["org.matrix.msc4076.disable_badge_count"] != true {
		t.Errorf("%v", p)
	}
	bert.do("POST", v3+"/pushers/set", map[string]any{"pushkey": "k", "app_id": "app", "kind": nil}).ok()
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
		t.Run(name, func(t *testing.T) { anna.do("POST", v3+"/pushers/set", tc.body).fails(400, tc.code) })
	}
}
