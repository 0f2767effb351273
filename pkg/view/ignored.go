package view

import (
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// IgnoredUsers is the type of the account data that says whom a user ignores.
const IgnoredUsers = "m.ignored_user_list"

// Ignored are the users whose events a user does not want to see (client-server API, "Ignoring Users"). A nil map ignores nobody.
type Ignored map[id.User]struct{}

// ParseIgnored reads an IgnoredUsers account data content: the keys of ignored_users. What cannot be read ignores nobody.
func ParseIgnored(content []byte) Ignored {
	users := gjson.GetBytes(content, "ignored_users")
	if !users.IsObject() {
		return nil
	}
	ignored := make(Ignored)
	users.ForEach(func(key, _ gjson.Result) bool {
		ignored[id.User(key.Str)] = struct{}{}
		return true
	})
	return ignored
}

// Has says whether the user ignores another one.
func (g Ignored) Has(who id.User) bool {
	_, yes := g[who]
	return yes
}

// Heeds says whether the user is to see an event: state, and what others than ignored users sent.
func (g Ignored) Heeds(e *roomdb.Event) bool { return e.StateKey != nil || !g.Has(e.Sender) }

// Heed returns the events that the user is to see, in their order.
func (g Ignored) Heed(events []*roomdb.Event) []*roomdb.Event {
	if len(g) == 0 {
		return events
	}
	kept := make([]*roomdb.Event, 0, len(events))
	for _, e := range events {
		if g.Heeds(e) {
			kept = append(kept, e)
		}
	}
	return kept
}
