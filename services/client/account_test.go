package client

import (
	"strings"
	"testing"
	"time"

	"hanse/pkg/mac"
	"hanse/pkg/merr"
	"hanse/pkg/pg/pgtest"
)

// Client-server API, "Password management".
func TestChangePassword(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	other := c.login(anna.id, nil)
	q := map[string]any{"new_password": "something else entirely"}
	c.do("POST", v3+"/account/password", "", q).fails(401, "M_MISSING_TOKEN")
	first := anna.do("POST", v3+"/account/password", q)
	if first.status != 401 || first.str("session") == "" {
		t.Fatalf("first answer: %d %s", first.status, first.raw)
	}
	wrong := anna.auth()
	wrong["password"] = "wrong"
	q["auth"] = wrong
	if a := anna.do("POST", v3+"/account/password", q).fails(401, "M_FORBIDDEN"); a.get("flows") == nil || a.str("session") == "" {
		t.Errorf("failed stage: %s", a.raw)
	}
	for name, tc := range map[string]struct {
		auth map[string]any
		code string
	}{
		"no password":  {map[string]any{"type": "m.login.password"}, "M_MISSING_PARAM"},
		"other user":   {map[string]any{"type": "m.login.password", "user": "bert", "password": testPassword}, "M_FORBIDDEN"},
		"other stage":  {map[string]any{"type": "m.login.dummy"}, "M_UNRECOGNIZED"},
		"other form":   {map[string]any{"type": "m.login.password", "identifier": map[string]any{"type": "m.id.face"}, "password": "x"}, "M_UNKNOWN"},
		"only session": {map[string]any{"session": first.str("session")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q["auth"] = tc.auth
			a := anna.do("POST", v3+"/account/password", q)
			if a.status != 401 || a.str("errcode") != tc.code {
				t.Errorf("answer %d %s", a.status, a.raw)
			}
		})
	}
	good := anna.auth()
	good["session"] = first.str("session")
	q["auth"] = good
	anna.do("POST", v3+"/account/password", q).ok()
	anna.do("GET", v3+"/account/whoami", nil).ok()
	other.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN") // logout_devices is the default
	c.do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "user": "anna", "password": testPassword}).fails(403, "M_FORBIDDEN")
	c.do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "user": "anna", "password": "something else entirely"}).ok()
}

// A session of user-interactive authentication is good for one operation of one user, and may be lost with Redis.
func TestAuthenticationSessions(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	a := anna.do("DELETE", v3+"/devices/X", map[string]any{})
	b := anna.do("POST", v3+"/account/deactivate", map[string]any{"auth": map[string]any{"session": a.str("session")}})
	if b.status != 401 || b.str("session") == a.str("session") {
		t.Errorf("the session was taken for another operation: %d %s", b.status, b.raw)
	}
	c.redis.FlushAll()
	good := anna.auth()
	good["session"] = a.str("session")
	anna.do("DELETE", v3+"/devices/X", map[string]any{"auth": good}).ok()
	c.redis.SetError("down")
	anna.do("DELETE", v3+"/devices/X", map[string]any{"auth": anna.auth()}).ok()
	c.redis.SetError("")
}

// Client-server API, "Account deactivation".
func TestDeactivate(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	c.join(anna.id, "!in:a.example", "join")
	c.join(anna.id, "!invited:a.example", "invite")
	c.join(anna.id, "!out:a.example", "leave")
	anna.do("PUT", v3+"/user/"+string(anna.id)+"/account_data/x.y", map[string]any{"a": 1}).ok()
	c.do("POST", v3+"/account/deactivate", "", map[string]any{}).fails(401, "M_MISSING_TOKEN")
	if a := anna.do("POST", v3+"/account/deactivate", map[string]any{}); a.status != 401 || a.get("flows") == nil {
		t.Fatalf("answer: %d %s", a.status, a.raw)
	}
	a := anna.do("POST", v3+"/account/deactivate", map[string]any{"auth": anna.auth(), "erase": true}).ok()
	if a.str("id_server_unbind_result") != "success" {
		t.Errorf("answer: %s", a.raw)
	}
	anna.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	login := func(name, password string) *reply {
		return c.do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "user": name, "password": password})
	}
	login("anna", testPassword).fails(403, "M_FORBIDDEN") // nothing is left of who is erased, the password's hash neither
	bert := c.register("bert")
	bert.do("POST", v3+"/account/deactivate", map[string]any{"auth": bert.auth()}).ok()
	login("bert", testPassword).fails(403, "M_USER_DEACTIVATED")
	login("bert", "wrong").fails(403, "M_FORBIDDEN") // a stranger does not learn whose account is closed
	c.do("POST", v3+"/register", "", map[string]any{"username": "anna"}).fails(400, "M_USER_IN_USE")
	c.do("GET", v3+"/profile/"+string(anna.id), "", nil).fails(404, "M_NOT_FOUND")
	c.rooms.mu.Lock()
	defer c.rooms.mu.Unlock()
	if len(c.rooms.leaves) != 2 {
		t.Errorf("left %v", c.rooms.leaves)
	}
	c.media.mu.Lock()
	defer c.media.mu.Unlock()
	if len(c.media.erased) != 1 || c.media.erased[0] != string(anna.id) {
		t.Errorf("files were deleted of %v, want those of who is erased only", c.media.erased)
	}
}

// Client-server API, "Device Management".
func TestDevices(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	second := c.login(anna.id, map[string]any{"device_id": "SECOND", "initial_device_display_name": "Tablet"})
	list := anna.do("GET", v3+"/devices", nil).ok().get("devices").([]any)
	if len(list) != 2 {
		t.Fatalf("devices: %v", list)
	}
	if d := anna.do("GET", v3+"/devices/SECOND", nil).ok(); d.str("display_name") != "Tablet" {
		t.Errorf("device: %s", d.raw)
	}
	bert.do("GET", v3+"/devices/SECOND", nil).fails(404, "M_NOT_FOUND")
	anna.do("PUT", v3+"/devices/SECOND", map[string]string{"display_name": "Slate"}).ok()
	if d := anna.do("GET", v3+"/devices/SECOND", nil).ok(); d.str("display_name") != "Slate" {
		t.Errorf("device: %s", d.raw)
	}
	if raw := string(c.login(anna.id, map[string]any{"device_id": "BARE"}).do("GET", v3+"/devices/BARE", nil).ok().raw); !strings.Contains(raw, `"display_name":null`) {
		t.Errorf("a device without a name: %s", raw)
	}
	anna.do("PUT", v3+"/devices/NONE", map[string]string{"display_name": "x"}).fails(404, "M_NOT_FOUND")
	anna.do("PUT", v3+"/devices/SECOND", map[string]string{"display_name": strings.Repeat("x", 101)}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", v3+"/devices/SECOND", map[string]int{"display_name": 1}).fails(400, "M_BAD_JSON")
	anna.do("POST", v3+"/delete_devices", map[string]any{"auth": anna.auth()}).fails(400, "M_MISSING_PARAM")
	if a := anna.do("POST", v3+"/delete_devices", map[string]any{"devices": []string{"SECOND"}}); a.status != 401 {
		t.Errorf("deleted without authentication: %d %s", a.status, a.raw)
	}
	anna.do("POST", v3+"/delete_devices", map[string]any{"devices": []string{"SECOND", "NONE"}, "auth": anna.auth()}).ok()
	second.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	anna.do("GET", v3+"/devices/SECOND", nil).fails(404, "M_NOT_FOUND")
	anna.do("DELETE", v3+"/devices/NONE", map[string]any{"auth": anna.auth()}).ok()
}

// Changes of devices reach the rooms even if their owners do not answer at first.
func TestDeviceChangesAreToldInTheEnd(t *testing.T) {
	c := newCluster(t, func(cfg *Config, _ *Deps) { cfg.TaskInterval = 20e6 })
	anna := c.register("anna")
	c.join(anna.id, "!in:a.example", "join")
	c.rooms.mu.Lock()
	c.rooms.fail = merr.Unavailable("no owner")
	c.rooms.mu.Unlock()
	anna.do("PUT", v3+"/devices/"+anna.device, map[string]string{"display_name": "New"}).ok()
	c.rooms.mu.Lock()
	c.rooms.fail = nil
	c.rooms.mu.Unlock()
	for _, pool := range c.shards.All() { // the grace is over
		_, err := pool.Exec(t.Context(), `UPDATE user_task SET due_ts = 0`)
		must(t, err)
	}
	eventually(t, "the room hears of the device", func() bool {
		c.rooms.mu.Lock()
		defer c.rooms.mu.Unlock()
		return len(c.rooms.devices) == 1 && c.rooms.devices[0].DeviceId == anna.device && c.rooms.devices[0].StreamId == 1
	})
	eventually(t, "the task is finished", func() bool {
		n := 0
		for _, pool := range c.shards.All() {
			var k int
			must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM user_task`).Scan(&k))
			n += k
		}
		return n == 0
	})
	notices, err := c.users.DeviceNotices(t.Context(), anna.id, 0, 1<<40)
	must(t, err)
	if len(notices) != 1 || notices[0] != anna.id {
		t.Errorf("notices: %v", notices)
	}
}

// Application service API, "Identity assertion" and "Server admin style permissions".
func TestApplicationServices(t *testing.T) {
	c := newCluster(t)
	as := &user{c: c, token: "as-secret"}
	reg := func(name string) map[string]any {
		return map[string]any{"type": "m.login.application_service", "username": name, "inhibit_login": true}
	}
	as.do("POST", v3+"/register", reg("_bridge_a")).ok()
	as.do("POST", v3+"/register", reg("_bridge_a")).fails(400, "M_USER_IN_USE")
	as.do("POST", v3+"/register", reg("stranger")).fails(400, "M_EXCLUSIVE")
	c.do("POST", v3+"/register", "wrong", reg("_bridge_b")).fails(401, "M_UNKNOWN_TOKEN")
	c.register("anna")
	who := func(q string) *reply { return as.do("GET", v3+"/account/whoami"+q, nil) }
	if a := who("").ok(); a.str("user_id") != "@bridgebot:a.example" || a.get("device_id") != nil {
		t.Errorf("sender: %s", a.raw)
	}
	if a := who("?user_id=@_bridge_a:a.example").ok(); a.str("user_id") != "@_bridge_a:a.example" {
		t.Errorf("masquerade: %s", a.raw)
	}
	who("?user_id=@anna:a.example").fails(403, "M_FORBIDDEN")
	who("?user_id=@_bridge_none:a.example").fails(403, "M_FORBIDDEN")
	who("?user_id=nonsense").fails(400, "M_INVALID_PARAM")
	who("?user_id=@_bridge_a:a.example&device_id=D").fails(400, "M_UNKNOWN_DEVICE")
	if a := as.do("PUT", v3+"/devices/D?user_id=@_bridge_a:a.example", map[string]string{"display_name": "x"}); a.status != 201 {
		t.Errorf("device not created: %d %s", a.status, a.raw)
	}
	if a := who("?user_id=@_bridge_a:a.example&device_id=D").ok(); a.str("device_id") != "D" {
		t.Errorf("device: %s", a.raw)
	}
	who("?user_id=@_bridge_a:a.example&org.matrix.msc3202.device_id=D").ok()
	as.do("POST", v3+"/keys/upload?user_id=@_bridge_a:a.example", map[string]any{}).fails(400, "M_MISSING_PARAM")
	as.do("DELETE", v3+"/devices/D?user_id=@_bridge_a:a.example", map[string]any{}).ok() // no user-interactive authentication
	login := func(name string) map[string]any {
		return map[string]any{"type": "m.login.application_service", "identifier": map[string]string{"type": "m.id.user", "user": name}}
	}
	if a := as.do("POST", v3+"/login", login("_bridge_a")).ok(); a.str("access_token") == "" {
		t.Errorf("login: %s", a.raw)
	}
	as.do("POST", v3+"/login", login("anna")).fails(403, "M_EXCLUSIVE")
	c.do("POST", v3+"/login", "", login("_bridge_a")).fails(401, "M_MISSING_TOKEN")
}

// Whoever can write to Redis has not thereby authenticated: what says that the password was given is signed, for one session.
func TestForgedAuthentication(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	change := map[string]any{"new_password": "another long password"}
	sid := anna.do("POST", v3+"/account/password", change).fails(401, "").str("session")
	name := uiaKey(sid)
	honest, err := c.redis.Get(name)
	must(t, err)
	done := `{"operation":"POST /_matrix/client/v3/account/password","user":"@anna:a.example","done":["m.login.password"]}`
	elsewhere, err := mac.Load(t.Context(), pgtest.New(t), nil)
	must(t, err)
	later := time.Now().Add(time.Hour)
	change["auth"] = map[string]any{"session": sid}
	for what, value := range map[string]string{
		"unsigned":                done,
		"under an old tag":        honest[:40] + done,
		"signed elsewhere":        string(elsewhere.Key("uia").Sign(name, []byte(done), later)),
		"of another purpose":      string(c.client.nonces.Sign(name, []byte(done), later)),
		"of another session":      string(c.client.uia.Sign(name+"x", []byte(done), later)),
		"of a session that ended": string(c.client.uia.Sign(name, []byte(done), time.Now().Add(-time.Second))),
	} {
		must(t, c.redis.Set(name, value))
		if a := anna.do("POST", v3+"/account/password", change).fails(401, ""); a.str("session") == sid {
			t.Errorf("%s: the session was believed", what)
		}
	}
	// The same, signed as it ought to be, is believed: so it was the signature.
	must(t, c.redis.Set(name, string(c.client.uia.Sign(name, []byte(done), later))))
	anna.do("POST", v3+"/account/password", change).ok()
}
