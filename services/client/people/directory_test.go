package people_test

import (
	"testing"

	"hanse/services/client"
	"hanse/services/client/clienttest"
)

// Client-server API, "User Directory".
func TestUserDirectory(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bertram")
	c.Register("bertha")
	c.Join(anna.ID, "!r:a.example", "join")
	c.Join(bert.ID, "!r:a.example", "join")
	bert.Do("PUT", v3+"/profile/"+string(bert.ID)+"/displayname", map[string]string{"displayname": "Captain Ahab"}).OK()
	search := func(u *clienttest.User, term string) []any {
		return u.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": term}).OK().Get("results").([]any)
	}
	for term, want := range map[string]int{"bert": 1, "anna": 1 /* oneself */, "BERTRAM": 1, "ahab": 1, "capt aha": 1, "@bertram:a.example": 1, "hab": 0, "": 0, "%": 0} {
		if got := search(anna, term); len(got) != want {
			t.Errorf("%q: %v", term, got)
		}
	}
	all := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.UserDirectory.SearchAll = true })
	dora := all.Register("dora")
	all.Register("emil")
	if got := search(dora, "emil"); len(got) != 1 {
		t.Errorf("search of all: %v", got)
	}
	if a := dora.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": "e", "limit": 0}).OK(); a.Get("limited") != true {
		t.Errorf("limited: %s", a.Raw)
	}
	anna.Do("POST", v3+"/user_directory/search", map[string]any{}).Fails(400, "M_MISSING_PARAM")
	anna.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": 5}).Fails(400, "M_BAD_JSON")
	anna.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": "x", "limit": -1}).Fails(400, "M_INVALID_PARAM")
}
