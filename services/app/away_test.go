package app_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"hanse/pkg/pg"
	"hanse/pkg/pg/local"
	"hanse/services/app"
)

// Client-server API, "Standard error response": while PostgreSQL is away, /sync and all else that needs it say 503, which
// clients and proxies take for a reason to try again, and it works again when it is back.
func TestDatabaseAway(t *testing.T) {
	cfg := local.Config{Dir: filepath.Join(t.TempDir(), "data"), Unsafe: true}
	start := func() *local.Server {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		srv, err := local.Start(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return srv
	}
	srv := start()
	cfg.Sockets = srv.Sockets() // where it is found when it is back
	t.Cleanup(func() { srv.Crash() })
	if err := srv.EnsureDatabase(t.Context(), "hanse"); err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, [][]string{nil}, func(c *app.Config) {
		c.PostgreSQL = pg.Defaults()
		c.PostgreSQL.Shards = []string{srv.DSN("hanse")}
	})
	anna := w.register(t, "anna")
	room := anna.create(object{})
	event := anna.say(room, "x")
	c := anna.client("")
	c.poll(0)
	srv.Crash()
	for _, q := range []struct{ method, path string }{
		{"GET", v3 + "/sync"}, {"GET", v3 + "/sync?since=" + c.since}, {"GET", v3 + "/sync?since=" + c.since + "&timeout=100"},
		{"GET", in(room, "messages") + "?dir=b"}, {"GET", in(room, "event", event)}, {"GET", in(room, "context", event)},
		{"GET", in(room, "state")}, {"GET", in(room, "members")}, {"GET", in(room, "joined_members")}, {"GET", v3 + "/joined_rooms"},
		{"GET", under(v1, room, "hierarchy")}, {"GET", under(v1, room, "timestamp_to_event") + "?ts=1&dir=f"}, {"GET", v3 + "/publicRooms"},
		{"GET", v3 + "/devices"}, {"GET", v3 + "/profile/" + anna.id}, {"GET", v3 + "/pushrules/"}, {"GET", v3 + "/pushers"},
		{"GET", v3 + "/user/" + anna.id + "/account_data/x.y"}, {"GET", v3 + "/room_keys/version"}, {"GET", v3 + "/register/available?username=free"},
		{"POST", v3 + "/keys/query"}, {"POST", v3 + "/user_directory/search"}, {"POST", v3 + "/login"}, {"PUT", v3 + "/sendToDevice/m.x/1"},
		{"PUT", v3 + "/user/" + anna.id + "/account_data/x.y"}, {"POST", v3 + "/user/" + anna.id + "/filter"},
	} {
		body := map[string]any{"search_term": "a", "type": "m.login.password", "user": anna.id, "password": "x",
			"device_keys": object{anna.id: list{}}, "messages": object{anna.id: object{"*": object{}}}}
		if r := anna.do(q.method, q.path, body); r.status != http.StatusServiceUnavailable && r.status != http.StatusOK {
			t.Errorf("%s: %d %s", r.what, r.status, r.raw) // what is in memory may be answered
		}
	}
	srv = start()
	eventually(t, "answers again", func() bool { return anna.do("GET", v3+"/sync", nil).status == http.StatusOK })
}
