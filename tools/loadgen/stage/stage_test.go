package stage

import (
	"fmt"
	"path/filepath"
	"testing"

	"hanse/tools/mxclient"
	"hanse/tools/mxclient/mxtest"
)

func open(t *testing.T, s *mxtest.Server, conf Config) *Stage {
	t.Helper()
	conf.Server, conf.Prefix, conf.Password = "here", "lg", "pw"
	st, err := Open(t.Context(), mxclient.New(s.URL, mxclient.Options{}), conf)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestSetUpOnceAndFindAgain(t *testing.T) {
	for _, secret := range []string{"", mxtest.Secret} {
		t.Run(fmt.Sprintf("secret=%q", secret), func(t *testing.T) {
			srv := mxtest.New(t)
			conf := Config{Secret: secret, File: filepath.Join(t.TempDir(), "state.json")}
			st := open(t, srv, conf)
			users, err := st.Users(t.Context(), "p", 5)
			if err != nil {
				t.Fatal(err)
			}
			room, err := st.Room(t.Context(), "r", users[:3])
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Save(); err != nil {
				t.Fatal(err)
			}

			again := open(t, srv, conf)
			users2, err := again.Users(t.Context(), "p", 5)
			if err != nil || users2[4].AccessToken != users[4].AccessToken {
				t.Fatal("registered again", err)
			}
			room2, err := again.Room(t.Context(), "r", users2)
			if err != nil || room2 != room {
				t.Fatal(room2, err)
			}
			members, err := users2[0].JoinedMembers(t.Context(), room)
			if err != nil || len(members) != 5 {
				t.Fatal(members, err)
			}

			// Another server under the same name does not know the accounts.
			fresh := open(t, mxtest.New(t), conf)
			if len(fresh.here.Users) != 0 {
				t.Error("kept the accounts of a server that is gone")
			}
		})
	}
}

func TestAccountsOfALostStateFileAreLoggedInTo(t *testing.T) {
	srv := mxtest.New(t)
	a, err := open(t, srv, Config{}).Users(t.Context(), "p", 2)
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t, srv, Config{}).Users(t.Context(), "p", 2)
	if err != nil || a[0].UserID != b[0].UserID || a[0].AccessToken == b[0].AccessToken {
		t.Fatal(err)
	}
}
