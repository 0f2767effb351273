package account_test

import (
	"strings"
	"testing"
	"time"

	"hanse/pkg/mac"
	"hanse/pkg/merr"
	"hanse/pkg/pg/pgtest"
	"hanse/services/client"
	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// Client-server API, "Password management".
func TestChangePassword(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	other := c.Login(anna.ID, nil)
	q := map[string]any{"new_password": "something else entirely"}
	c.Do("POST", v3+"/account/password", "", q).Fails(401, "M_MISSING_TOKEN")
	first := anna.Do("POST", v3+"/account/password", q)
	if first.Status != 401 || first.Str("session") == "" {
		t.Fatalf("first answer: %d %s", first.Status, first.Raw)
	}
	wrong := anna.Auth()
	wrong["password"] = "wrong"
	q["auth"] = wrong
	if a := anna.Do("POST", v3+"/account/password", q).Fails(401, "M_FORBIDDEN"); a.Get("flows") == nil || a.Str("session") == "" {
		t.Errorf("failed stage: %s", a.Raw)
	}
	for name, tc := range map[string]struct {
		auth map[string]any
		code string
	}{
		"no password":  {map[string]any{"type": "m.login.password"}, "M_MISSING_PARAM"},
		"other user":   {map[string]any{"type": "m.login.password", "user": "bert", "password": clienttest.Password}, "M_FORBIDDEN"},
		"other stage":  {map[string]any{"type": "m.login.dummy"}, "M_UNRECOGNIZED"},
		"other form":   {map[string]any{"type": "m.login.password", "identifier": map[string]any{"type": "m.id.face"}, "password": "x"}, "M_UNKNOWN"},
		"only session": {map[string]any{"session": first.Str("session")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q["auth"] = tc.auth
			a := anna.Do("POST", v3+"/account/password", q)
			if a.Status != 401 || a.Str("errcode") != tc.code {
				t.Errorf("answer %d %s", a.Status, a.Raw)
			}
		})
	}
	good := anna.Auth()
	good["session"] = first.Str("session")
	q["auth"] = good
	anna.Do("POST", v3+"/account/password", q).OK()
	anna.Do("GET", v3+"/account/whoami", nil).OK()
	other.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN") // logout_devices is the default
	c.Do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "user": "anna", "password": clienttest.Password}).Fails(403, "M_FORBIDDEN")
	c.Do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "user": "anna", "password": "something else entirely"}).OK()
}

// A session of user-interactive authentication is good for one operation of one user, and may be lost with Redis.
func TestAuthenticationSessions(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	a := anna.Do("DELETE", v3+"/devices/X", map[string]any{})
	b := anna.Do("POST", v3+"/account/deactivate", map[string]any{"auth": map[string]any{"session": a.Str("session")}})
	if b.Status != 401 || b.Str("session") == a.Str("session") {
		t.Errorf("the session was taken for another operation: %d %s", b.Status, b.Raw)
	}
	c.Redis.FlushAll()
	good := anna.Auth()
	good["session"] = a.Str("session")
	anna.Do("DELETE", v3+"/devices/X", map[string]any{"auth": good}).OK()
	c.Redis.SetError("down")
	anna.Do("DELETE", v3+"/devices/X", map[string]any{"auth": anna.Auth()}).OK()
	c.Redis.SetError("")
}

// Client-server API, "Account deactivation".
func TestDeactivate(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	c.Join(anna.ID, "!in:a.example", "join")
	c.Join(anna.ID, "!invited:a.example", "invite")
	c.Join(anna.ID, "!out:a.example", "leave")
	anna.Do("PUT", v3+"/user/"+string(anna.ID)+"/account_data/x.y", map[string]any{"a": 1}).OK()
	c.Do("POST", v3+"/account/deactivate", "", map[string]any{}).Fails(401, "M_MISSING_TOKEN")
	if a := anna.Do("POST", v3+"/account/deactivate", map[string]any{}); a.Status != 401 || a.Get("flows") == nil {
		t.Fatalf("answer: %d %s", a.Status, a.Raw)
	}
	a := anna.Do("POST", v3+"/account/deactivate", map[string]any{"auth": anna.Auth(), "erase": true}).OK()
	if a.Str("id_server_unbind_result") != "success" {
		t.Errorf("answer: %s", a.Raw)
	}
	anna.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	login := func(name, password string) *clienttest.Reply {
		return c.Do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "user": name, "password": password})
	}
	login("anna", clienttest.Password).Fails(403, "M_FORBIDDEN") // nothing is left of who is erased, the password's hash neither
	bert := c.Register("bert")
	bert.Do("POST", v3+"/account/deactivate", map[string]any{"auth": bert.Auth()}).OK()
	login("bert", clienttest.Password).Fails(403, "M_USER_DEACTIVATED")
	login("bert", "wrong").Fails(403, "M_FORBIDDEN") // a stranger does not learn whose account is closed
	c.Do("POST", v3+"/register", "", map[string]any{"username": "anna"}).Fails(400, "M_USER_IN_USE")
	c.Do("GET", v3+"/profile/"+string(anna.ID), "", nil).Fails(404, "M_NOT_FOUND")
	c.Rooms.Mu.Lock()
	defer c.Rooms.Mu.Unlock()
	if len(c.Rooms.Leaves) != 2 {
		t.Errorf("left %v", c.Rooms.Leaves)
	}
	c.Media.Mu.Lock()
	defer c.Media.Mu.Unlock()
	if len(c.Media.Erased) != 1 || c.Media.Erased[0] != string(anna.ID) {
		t.Errorf("files were deleted of %v, want those of who is erased only", c.Media.Erased)
	}
}

// Client-server API, "Device Management".
func TestDevices(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	second := c.Login(anna.ID, map[string]any{"device_id": "SECOND", "initial_device_display_name": "Tablet"})
	list := anna.Do("GET", v3+"/devices", nil).OK().Get("devices").([]any)
	if len(list) != 2 {
		t.Fatalf("devices: %v", list)
	}
	if d := anna.Do("GET", v3+"/devices/SECOND", nil).OK(); d.Str("display_name") != "Tablet" {
		t.Errorf("device: %s", d.Raw)
	}
	bert.Do("GET", v3+"/devices/SECOND", nil).Fails(404, "M_NOT_FOUND")
	anna.Do("PUT", v3+"/devices/SECOND", map[string]string{"display_name": "Slate"}).OK()
	if d := anna.Do("GET", v3+"/devices/SECOND", nil).OK(); d.Str("display_name") != "Slate" {
		t.Errorf("device: %s", d.Raw)
	}
	if raw := string(c.Login(anna.ID, map[string]any{"device_id": "BARE"}).Do("GET", v3+"/devices/BARE", nil).OK().Raw); !strings.Contains(raw, `"display_name":null`) {
		t.Errorf("a device without a name: %s", raw)
	}
	anna.Do("PUT", v3+"/devices/NONE", map[string]string{"display_name": "x"}).Fails(404, "M_NOT_FOUND")
	anna.Do("PUT", v3+"/devices/SECOND", map[string]string{"display_name": strings.Repeat("x", 101)}).Fails(400, "M_INVALID_PARAM")
	anna.Do("PUT", v3+"/devices/SECOND", map[string]int{"display_name": 1}).Fails(400, "M_BAD_JSON")
	anna.Do("POST", v3+"/delete_devices", map[string]any{"auth": anna.Auth()}).Fails(400, "M_MISSING_PARAM")
	if a := anna.Do("POST", v3+"/delete_devices", map[string]any{"devices": []string{"SECOND"}}); a.Status != 401 {
		t.Errorf("deleted without authentication: %d %s", a.Status, a.Raw)
	}
	anna.Do("POST", v3+"/delete_devices", map[string]any{"devices": []string{"SECOND", "NONE"}, "auth": anna.Auth()}).OK()
	second.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	anna.Do("GET", v3+"/devices/SECOND", nil).Fails(404, "M_NOT_FOUND")
	anna.Do("DELETE", v3+"/devices/NONE", map[string]any{"auth": anna.Auth()}).OK()
}

// MSC3890: with a device goes the account data that says whether its client notifies. Whoever had it is told of an empty object (MSC3391).
func TestNotificationSettingsOfDevices(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	second := c.Login(anna.ID, nil)
	path := func(prefix, device string) string {
		return v3 + "/user/" + string(anna.ID) + "/account_data/" + prefix + ".local_notification_settings." + device
	}
	prefixes := []string{"m", "org.matrix.msc3890"}
	for _, prefix := range prefixes {
		for _, u := range []*clienttest.User{anna, second} {
			u.Do("PUT", path(prefix, u.Device), map[string]bool{"is_silenced": true}).OK()
		}
	}
	before, err := c.Users.Seq(t.Context(), anna.ID)
	clienttest.Must(t, err)
	second.Do("POST", v3+"/logout", nil).OK()
	for _, prefix := range prefixes {
		anna.Do("GET", path(prefix, second.Device), nil).Fails(404, "M_NOT_FOUND")
		anna.Do("GET", path(prefix, anna.Device), nil).OK()
	}
	told, err := c.Users.AccountDataSince(t.Context(), anna.ID, before, 1<<40)
	clienttest.Must(t, err)
	if len(told) != 2 || string(told[0].Content) != "{}" || string(told[1].Content) != "{}" {
		t.Errorf("told: %v", told)
	}
}

// Changes of devices reach the rooms even if their owners do not answer at first.
func TestDeviceChangesAreToldInTheEnd(t *testing.T) {
	c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.TaskInterval = 20e6 })
	anna := c.Register("anna")
	c.Join(anna.ID, "!in:a.example", "join")
	c.Rooms.Mu.Lock()
	c.Rooms.Fail = merr.Unavailable("no owner")
	c.Rooms.Mu.Unlock()
	anna.Do("PUT", v3+"/devices/"+anna.Device, map[string]string{"display_name": "New"}).OK()
	c.Rooms.Mu.Lock()
	c.Rooms.Fail = nil
	c.Rooms.Mu.Unlock()
	for _, pool := range c.Shards.All() { // the grace is over
		_, err := pool.Exec(t.Context(), `UPDATE user_task SET due_ts = 0`)
		clienttest.Must(t, err)
	}
	clienttest.Eventually(t, "the room hears of the device", func() bool {
		c.Rooms.Mu.Lock()
		defer c.Rooms.Mu.Unlock()
		return len(c.Rooms.Devices) == 1 && c.Rooms.Devices[0].DeviceId == anna.Device && c.Rooms.Devices[0].StreamId == 1
	})
	clienttest.Eventually(t, "the task is finished", func() bool {
		n := 0
		for _, pool := range c.Shards.All() {
			var k int
			clienttest.Must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM user_task`).Scan(&k))
			n += k
		}
		return n == 0
	})
	notices, err := c.Users.DeviceNotices(t.Context(), anna.ID, 0, 1<<40)
	clienttest.Must(t, err)
	if len(notices) != 1 || notices[0] != anna.ID {
		t.Errorf("notices: %v", notices)
	}
}

// Application service API, "Identity assertion" and "Server admin style permissions".
func TestApplicationServices(t *testing.T) {
	c := clienttest.New(t)
	as := &clienttest.User{C: c, Token: "as-secret"}
	reg := func(name string) map[string]any {
		return map[string]any{"type": "m.login.application_service", "username": name, "inhibit_login": true}
	}
	as.Do("POST", v3+"/register", reg("_bridge_a")).OK()
	as.Do("POST", v3+"/register", reg("_bridge_a")).Fails(400, "M_USER_IN_USE")
	as.Do("POST", v3+"/register", reg("stranger")).Fails(400, "M_EXCLUSIVE")
	c.Do("POST", v3+"/register", "wrong", reg("_bridge_b")).Fails(401, "M_UNKNOWN_TOKEN")
	c.Register("anna")
	who := func(q string) *clienttest.Reply { return as.Do("GET", v3+"/account/whoami"+q, nil) }
	if a := who("").OK(); a.Str("user_id") != "@bridgebot:a.example" || a.Get("device_id") != nil {
		t.Errorf("sender: %s", a.Raw)
	}
	if a := who("?user_id=@_bridge_a:a.example").OK(); a.Str("user_id") != "@_bridge_a:a.example" {
		t.Errorf("masquerade: %s", a.Raw)
	}
	who("?user_id=@anna:a.example").Fails(403, "M_FORBIDDEN")
	who("?user_id=@_bridge_none:a.example").Fails(403, "M_FORBIDDEN")
	who("?user_id=nonsense").Fails(400, "M_INVALID_PARAM")
	who("?user_id=@_bridge_a:a.example&device_id=D").Fails(400, "M_UNKNOWN_DEVICE")
	if a := as.Do("PUT", v3+"/devices/D?user_id=@_bridge_a:a.example", map[string]string{"display_name": "x"}); a.Status != 201 {
		t.Errorf("device not created: %d %s", a.Status, a.Raw)
	}
	if a := who("?user_id=@_bridge_a:a.example&device_id=D").OK(); a.Str("device_id") != "D" {
		t.Errorf("device: %s", a.Raw)
	}
	who("?user_id=@_bridge_a:a.example&org.matrix.msc3202.device_id=D").OK()
	as.Do("POST", v3+"/keys/upload?user_id=@_bridge_a:a.example", map[string]any{}).Fails(400, "M_MISSING_PARAM")
	as.Do("DELETE", v3+"/devices/D?user_id=@_bridge_a:a.example", map[string]any{}).OK() // no user-interactive authentication
	login := func(name string) map[string]any {
		return map[string]any{"type": "m.login.application_service", "identifier": map[string]string{"type": "m.id.user", "user": name}}
	}
	if a := as.Do("POST", v3+"/login", login("_bridge_a")).OK(); a.Str("access_token") == "" {
		t.Errorf("login: %s", a.Raw)
	}
	as.Do("POST", v3+"/login", login("anna")).Fails(403, "M_EXCLUSIVE")
	c.Do("POST", v3+"/login", "", login("_bridge_a")).Fails(401, "M_MISSING_TOKEN")
}

// Whoever can write to Redis has not thereby authenticated: what says that the password was given is signed, for one session.
func TestForgedAuthentication(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	change := map[string]any{"new_password": "another long password"}
	sid := anna.Do("POST", v3+"/account/password", change).Fails(401, "").Str("session")
	name := "hanse:uia:" + sid
	honest, err := c.Redis.Get(name)
	clienttest.Must(t, err)
	done := `{"operation":"POST /_matrix/client/v3/account/password","user":"@anna:a.example","done":["m.login.password"]}`
	elsewhere, err := mac.Load(t.Context(), pgtest.New(t), nil)
	clienttest.Must(t, err)
	later := time.Now().Add(time.Hour)
	change["auth"] = map[string]any{"session": sid}
	for what, value := range map[string]string{
		"unsigned":                done,
		"under an old tag":        honest[:40] + done,
		"signed elsewhere":        string(elsewhere.Key("uia").Sign(name, []byte(done), later)),
		"of another purpose":      string(c.Secret.Key("nonce").Sign(name, []byte(done), later)),
		"of another session":      string(c.Secret.Key("uia").Sign(name+"x", []byte(done), later)),
		"of a session that ended": string(c.Secret.Key("uia").Sign(name, []byte(done), time.Now().Add(-time.Second))),
	} {
		clienttest.Must(t, c.Redis.Set(name, value))
		if a := anna.Do("POST", v3+"/account/password", change).Fails(401, ""); a.Str("session") == sid {
			t.Errorf("%s: the session was believed", what)
		}
	}
	// The same, signed as it ought to be, is believed: so it was the signature.
	clienttest.Must(t, c.Redis.Set(name, string(c.Secret.Key("uia").Sign(name, []byte(done), later))))
	anna.Do("POST", v3+"/account/password", change).OK()
}
