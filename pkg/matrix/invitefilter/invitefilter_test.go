package invitefilter

import (
	"testing"

	"hanse/pkg/matrix/id"
)

// MSC4155, "Proposal": the order of evaluation, and its examples; client-server API, "Invite permission": default_action.
func TestRules(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    map[id.User]Action
	}{
		"everyone":   {`{}`, map[id.User]Action{"@a:good.org": Allow}},
		"nobody":     {`{"blocked_servers":["*"]}`, map[id.User]Action{"@a:good.org": Block}},
		"one server": {`{"allowed_servers":["goodguys.org"],"blocked_servers":["*"]}`, map[id.User]Action{"@a:goodguys.org": Allow, "@a:GoodGuys.org:8448": Allow, "@a:x.org": Block}},
		"but a user": {`{"blocked_users":["@not:goodguys.org"],"allowed_servers":["goodguys.org"]}`, map[id.User]Action{"@not:goodguys.org": Block, "@a:goodguys.org": Allow}},
		"unless it is a user": {`{"allowed_users":["@goodguy:badguys.org"],"blocked_servers":["badguys.org"]}`,
			map[id.User]Action{"@goodguy:badguys.org": Allow, "@a:badguys.org": Block, "@a:sub.badguys.org": Allow}},
		"ignored before blocked":  {`{"ignored_users":["@a:*"],"blocked_users":["@a:x"],"blocked_servers":["x"]}`, map[id.User]Action{"@a:x": Ignore, "@b:x": Block}},
		"users before servers":    {`{"blocked_users":["@a?:x"],"ignored_servers":["x"]}`, map[id.User]Action{"@ab:x": Block, "@a:x": Ignore}},
		"users' case counts":      {`{"blocked_users":["@A:x"]}`, map[id.User]Action{"@a:x": Allow, "@A:x": Block}},
		"turned off":              {`{"enabled":false,"blocked_servers":["*"]}`, map[id.User]Action{"@a:x": Allow}},
		"not strings":             {`{"allowed_users":[5],"blocked_servers":["*"]}`, map[id.User]Action{"@a:x": Allow}},
		"not a list":              {`{"blocked_servers":"*"}`, map[id.User]Action{"@a:x": Allow}},
		"not an object":           {`5`, map[id.User]Action{"@a:x": Allow}},
		"all":                     {`{"default_action":"block"}`, map[id.User]Action{"@a:x": Block}},
		"all but a friend":        {`{"default_action":"block","allowed_users":["@a:x"]}`, map[id.User]Action{"@a:x": Allow, "@b:x": Block}},
		"another action":          {`{"default_action":"explode"}`, map[id.User]Action{"@a:x": Allow}},
		"an action of some value": {`{"default_action":5,"blocked_users":["@a:x"]}`, map[id.User]Action{"@a:x": Block}},
	} {
		for _, typ := range Types {
			rules := Parse(map[string][]byte{typ: []byte(c.content), "m.other": []byte(`{"default_action":"block"}`)})
			for who, want := range c.want {
				if got := rules.Of(who); got != want {
					t.Errorf("%s, %s: %v for %s, want %v", name, typ, got, who, want)
				}
			}
		}
	}
	if (Rules{}).Of("@a:x") != Allow || Parse(nil).Of("@a:x") != Allow {
		t.Error("without rules an invite is not allowed")
	}
}
