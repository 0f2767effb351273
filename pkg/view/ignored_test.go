package view

import (
	"slices"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Client-server API, "Ignoring Users": state of ignored users is told, all else of them is not.
func TestIgnored(t *testing.T) {
	g := ParseIgnored([]byte(`{"ignored_users":{"@bad:a":{}}}`))
	key := ""
	bad, state, good := sentBy("@bad:a", nil), sentBy("@bad:a", &key), sentBy("@good:a", nil)
	if got := g.Heed([]*roomdb.Event{bad, state, good}); !slices.Equal(got, []*roomdb.Event{state, good}) {
		t.Errorf("%d events are left", len(got))
	}
	for _, content := range []string{"", "{", `{"ignored_users":[]}`, `{"ignored_users":null}`, `{"ignored_users":["@bad:a"]}`, `{"ignored_users":"@bad:a"}`} {
		if g := ParseIgnored([]byte(content)); len(g) != 0 || !g.Heeds(bad) {
			t.Errorf("%s ignores %v", content, g)
		}
	}
}

func sentBy(user string, stateKey *string) *roomdb.Event {
	return &roomdb.Event{PDU: &event.PDU{Sender: id.User(user), StateKey: stateKey}}
}
