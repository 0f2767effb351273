package admin

import (
	"slices"
	"strings"
	"testing"

	"hanse/pkg/userdb/db"
)

func ids(accounts []db.Account) []string {
	out := make([]string, len(accounts))
	for i, a := range accounts {
		out[i] = a.UserID
	}
	return out
}

// Appendices, "User Identifiers": what new users may be called. A name of another server makes no account.
func TestCreateUser(t *testing.T) {
	a := newAdmin(t, "one.example", "two.example")
	user, err := a.CreateUser(t.Context(), NewUser{Name: "alice", Password: "wonderland"})
	if err != nil || user != "@alice:one.example" {
		t.Fatalf("%s: %v", user, err)
	}
	for _, c := range []struct{ name, server, want string }{
		{"alice", "", "is taken"},
		{"@alice:one.example", "", "is taken"},
		{"Alice", "", "only a-z"},
		{"al ice", "", "only a-z"},
		{"", "", "empty"},
		{"bob", "three.example", "not a server of this cluster"},
		{"@bob:three.example", "", "not a server of this cluster"},
		{"@bob:one.example", "two.example", "not a user of two.example"},
	} {
		if _, err := a.CheckNewUser(t.Context(), c.name, c.server); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q at %q: %v, want %q", c.name, c.server, err, c.want)
		}
	}
	if _, err := a.CreateUser(t.Context(), NewUser{Name: "bob", Server: "two.example"}); err == nil {
		t.Error("an account without a password was created")
	}
	if user, err := a.CreateUser(t.Context(), NewUser{Name: "bob", Server: "two.example", Password: "x", Displayname: "Bob"}); err != nil || user != "@bob:two.example" {
		t.Fatalf("%s: %v", user, err)
	}
	for name, want := range map[string]string{"alice": "alice", "@bob:two.example": "Bob"} {
		d, err := a.User(t.Context(), name)
		if err != nil || d.Account.Displayname == nil || *d.Account.Displayname != want {
			t.Errorf("display name of %s: %+v, %v", name, d, err)
		}
	}
}

func TestListAndPromote(t *testing.T) {
	a := newAdmin(t, "one.example")
	var want []string
	for _, name := range []string{"carol", "alice", "dave", "bob"} {
		user, err := a.CreateUser(t.Context(), NewUser{Name: name, Password: "x"})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, string(user))
	}
	slices.Sort(want)
	first, err := a.Users(t.Context(), "", "", 3)
	if err != nil || !slices.Equal(ids(first), want[:3]) {
		t.Fatalf("first page: %v, %v", ids(first), err)
	}
	rest, err := a.Users(t.Context(), first[2].UserID, "", 3)
	if err != nil || !slices.Equal(ids(rest), want[3:]) {
		t.Fatalf("second page: %v, %v", ids(rest), err)
	}
	if some, err := a.Users(t.Context(), "", "a", 10); err != nil || len(some) != 4 { // ":one.example" has one
		t.Fatalf("with an a: %v, %v", ids(some), err)
	}
	if some, err := a.Users(t.Context(), "", "aro", 10); err != nil || !slices.Equal(ids(some), []string{"@carol:one.example"}) {
		t.Fatalf("containing aro: %v, %v", ids(some), err)
	}
	for _, is := range []bool{true, false} {
		if _, err := a.SetAdministrator(t.Context(), "alice", is); err != nil {
			t.Fatal(err)
		}
		if d, err := a.User(t.Context(), "alice"); err != nil || d.Account.Admin != is {
			t.Errorf("administrator: %+v, %v", d, err)
		}
	}
	for what, err := range map[string]error{
		"promote":    second(a.SetAdministrator(t.Context(), "nobody", true)),
		"password":   second(a.SetPassword(t.Context(), "nobody", "x", true)),
		"deactivate": second(a.Deactivate(t.Context(), "nobody", false)),
		"check":      second(a.CheckUser(t.Context(), "nobody")),
	} {
		if err == nil || !strings.Contains(err.Error(), "there is no account @nobody:one.example") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[V any](_ V, err error) error { return err }
