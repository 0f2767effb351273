package client

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
)

// Client-server API, "Account registration" and "User-Interactive Authentication API".
func TestRegister(t *testing.T) {
	c := newCluster(t)
	q := map[string]any{"username": "Anna", "password": testPassword, "device_id": "DEV", "initial_device_display_name": "Phone"}
	first := c.do("POST", v3+"/register", "", q)
	if first.status != 401 || first.get("flows") == nil || first.str("session") == "" || first.get("errcode") != nil {
		t.Fatalf("first answer: %d %s", first.status, first.raw)
	}
	q["auth"] = map[string]string{"type": "m.login.dummy", "session": first.str("session")}
	a := c.do("POST", v3+"/register", "", q).ok()
	if a.str("user_id") != "@anna:a.example" || a.str("device_id") != "DEV" || a.str("access_token") == "" {
		t.Fatalf("answer: %s", a.raw)
	}
	who := c.do("GET", v3+"/account/whoami", a.str("access_token"), nil).ok()
	if who.str("user_id") != "@anna:a.example" || who.str("device_id") != "DEV" || who.get("is_guest") != false {
		t.Errorf("whoami: %s", who.raw)
	}
	c.do("GET", "/_matrix/client/r0/account/whoami", a.str("access_token"), nil).ok()

	dummy := map[string]string{"type": "m.login.dummy"}
	for name, tc := range map[string]struct {
		body   any
		status int
		code   string
	}{
		"taken":           {map[string]any{"username": "anna", "password": testPassword}, 400, "M_USER_IN_USE"},
		"bad characters":  {map[string]any{"username": "a b", "password": testPassword}, 400, "M_INVALID_USERNAME"},
		"underscore":      {map[string]any{"username": "_x", "password": testPassword}, 400, "M_INVALID_USERNAME"},
		"too long":        {map[string]any{"username": strings.Repeat("x", 300), "password": testPassword}, 400, "M_INVALID_USERNAME"},
		"Kelvin sign":     {map[string]any{"username": "\u212aarl", "password": testPassword}, 400, "M_INVALID_USERNAME"}, // Unicode's lower case is k
		"dotted capital":  {map[string]any{"username": "\u0130da", "password": testPassword}, 400, "M_INVALID_USERNAME"},  // and i
		"of a bridge":     {map[string]any{"username": "bridgebot", "password": testPassword}, 400, "M_EXCLUSIVE"},
		"no password":     {map[string]any{"username": "carl", "auth": dummy}, 400, "M_MISSING_PARAM"},
		"wrong type":      {map[string]any{"username": 5}, 400, "M_BAD_JSON"},
		"not JSON":        {`{"username":`, 400, "M_NOT_JSON"},
		"not an object":   {`[]`, 400, "M_BAD_JSON"},
		"too deep":        {strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200), 400, "M_BAD_JSON"},
		"too large":       {`{"username":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "M_TOO_LARGE"},
		"unknown stage":   {map[string]any{"password": "x", "auth": map[string]string{"type": "m.login.magic"}}, 401, "M_UNRECOGNIZED"},
		"long device id":  {map[string]any{"device_id": strings.Repeat("x", 600)}, 400, "M_INVALID_PARAM"},
		"no bridge token": {map[string]any{"type": "m.login.application_service", "username": "_bridge_x"}, 401, "M_MISSING_TOKEN"},
	} {
		t.Run(name, func(t *testing.T) { c.do("POST", v3+"/register", "", tc.body).fails(tc.status, tc.code) })
	}
	c.do("POST", v3+"/register?kind=guest", "", map[string]any{}).fails(403, "M_FORBIDDEN")
	c.do("POST", v3+"/register?kind=alien", "", map[string]any{}).fails(400, "M_INVALID_PARAM")
	inhibited := c.do("POST", v3+"/register", "", map[string]any{"username": "dora", "password": testPassword, "inhibit_login": true, "auth": dummy}).ok()
	if inhibited.get("access_token") != nil || inhibited.get("device_id") != nil {
		t.Errorf("inhibit_login: %s", inhibited.raw)
	}
	c.do("GET", v3+"/register/available?username=free", "", nil).ok()
	c.do("GET", v3+"/register/available?username=anna", "", nil).fails(400, "M_USER_IN_USE")
	c.do("GET", v3+"/register/available?username=A%20B", "", nil).fails(400, "M_INVALID_USERNAME")
	c.do("GET", v3+"/register/available", "", nil).fails(400, "M_MISSING_PARAM")
}

func TestRegistrationPolicy(t *testing.T) {
	closed := newCluster(t, func(cfg *Config, _ *Deps) { cfg.Registration.Enabled = false })
	closed.do("POST", v3+"/register", "", map[string]any{"username": "x", "password": "y"}).fails(403, "M_FORBIDDEN")
	closed.do("GET", v3+"/register/available?username=free", "", nil).fails(403, "M_FORBIDDEN")
	closed.do("GET", "/_synapse/admin/v1/register", "", nil).fails(400, "M_UNKNOWN")

	c := newCluster(t, func(cfg *Config, _ *Deps) {
		cfg.Registration.Tokens = map[string]int64{"once": 1}
		cfg.Registration.Guests = true
	})
	token := func(v string) map[string]any {
		return map[string]any{"password": testPassword, "auth": map[string]string{"type": "m.login.registration_token", "token": v}}
	}
	c.do("POST", v3+"/register", "", map[string]any{"password": "x", "auth": map[string]string{"type": "m.login.dummy"}}).fails(401, "M_UNRECOGNIZED")
	c.do("POST", v3+"/register", "", token("wrong")).fails(401, "M_UNAUTHORIZED")
	validity := "/_matrix/client/v1/register/m.login.registration_token/validity?token="
	if c.do("GET", validity+"once", "", nil).ok().get("valid") != true || c.do("GET", validity+"x", "", nil).ok().get("valid") != false {
		t.Error("validity of the token")
	}
	c.do("POST", v3+"/register", "", token("once")).ok()
	c.do("POST", v3+"/register", "", token("once")).fails(401, "M_UNAUTHORIZED")
	if c.do("GET", validity+"once", "", nil).ok().get("valid") != false {
		t.Error("a used token is still valid")
	}
	guest := c.do("POST", v3+"/register?kind=guest", "", map[string]any{"device_id": "MINE"}).ok()
	if guest.str("device_id") == "MINE" {
		t.Error("a guest chose its device")
	}
	c.do("GET", v3+"/account/whoami", guest.str("access_token"), nil).ok()
	c.do("GET", v3+"/pushers", guest.str("access_token"), nil).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
}

// Client-server API, "User-Interactive Authentication API" and "Account registration": a request whose answer was lost
// comes again, and makes no second account; a stage that is shown again has the result that it had.
func TestRegistrationComesAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		tokens map[string]int64
		stage  map[string]string
	}{
		"dummy": {nil, map[string]string{"type": "m.login.dummy"}},
		"token": {map[string]int64{"once": 1}, map[string]string{"type": "m.login.registration_token", "token": "once"}},
	} {
		for _, username := range []string{"", "Anna"} {
			t.Run(name+" "+username, func(t *testing.T) {
				c := newCluster(t, func(cfg *Config, _ *Deps) { cfg.Registration.Tokens = tc.tokens })
				q := map[string]any{"password": testPassword}
				if username != "" {
					q["username"] = username
				}
				begin := c.do("POST", v3+"/register", "", q)
				if completed, ok := begin.get("completed").([]any); begin.status != 401 || !ok || len(completed) != 0 {
					t.Fatalf("first answer: %d %s", begin.status, begin.raw)
				}
				auth := map[string]string{"session": begin.str("session")}
				for k, v := range tc.stage {
					auth[k] = v
				}
				q["auth"] = auth
				first := c.do("POST", v3+"/register", "", q).ok()
				again := c.do("POST", v3+"/register", "", q).ok()
				if first.str("user_id") != again.str("user_id") || first.str("device_id") != again.str("device_id") {
					t.Errorf("made %s, then %s", first.raw, again.raw)
				}
				c.do("GET", v3+"/account/whoami", again.str("access_token"), nil).ok()
				// Another request is not what was authenticated, and the password is what proves that it is the same client.
				q["password"] = "another long password"
				a := c.do("POST", v3+"/register", "", q)
				if a.status == 200 || a.str("session") == begin.str("session") {
					t.Errorf("another request of a finished session: %d %s", a.status, a.raw)
				}
				if tc.tokens != nil {
					used, err := c.users.RegistrationTokenUses(t.Context(), "once")
					must(t, err)
					if used != 1 {
						t.Errorf("the token was used %d times", used)
					}
				}
			})
		}
	}
}

// The same, at the same time.
func TestRegistrationComesTwiceAtOnce(t *testing.T) {
	c := newCluster(t, func(cfg *Config, _ *Deps) { cfg.Registration.Tokens = map[string]int64{"many": 4} })
	q := map[string]any{"password": testPassword}
	q["auth"] = map[string]string{"session": c.do("POST", v3+"/register", "", q).str("session"), "type": "m.login.registration_token", "token": "many"}
	answers := make(chan *reply)
	for range 4 {
		go func() { answers <- c.do("POST", v3+"/register", "", q) }()
	}
	names := map[string]bool{}
	for range 4 {
		names[(<-answers).ok().str("user_id")] = true
	}
	used, err := c.users.RegistrationTokenUses(t.Context(), "many")
	must(t, err)
	if len(names) != 1 || used != 1 {
		t.Errorf("accounts %v, %d uses of the token", names, used)
	}
}

// Client-server API, "User-Interactive Authentication API": a session belongs to its operation and its user.
func TestSessionsAreNotLent(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	change := map[string]any{"new_password": "another long password"}
	a := anna.do("POST", v3+"/account/password", change).fails(401, "")
	auth := anna.auth()
	auth["session"] = a.str("session")
	change["auth"] = auth
	anna.do("POST", v3+"/account/password", change).ok()
	anna.do("POST", v3+"/account/password", change).ok() // the answer was lost; the old password is not right any more
	sessionOnly := map[string]any{"session": a.str("session")}
	for what, r := range map[string]*reply{
		"other user":      bert.do("POST", v3+"/account/password", map[string]any{"new_password": "another long password", "auth": sessionOnly}),
		"other operation": anna.do("POST", v3+"/account/deactivate", map[string]any{"auth": sessionOnly}),
		"other password":  anna.do("POST", v3+"/account/password", map[string]any{"new_password": "yet another password", "auth": sessionOnly}),
	} {
		if r.status != 401 || r.str("session") == a.str("session") {
			t.Errorf("%s: %d %s", what, r.status, r.raw)
		}
	}
	failed := anna.do("POST", v3+"/account/deactivate", map[string]any{"auth": map[string]any{"type": "m.login.password", "password": "wrong"}})
	if completed, ok := failed.get("completed").([]any); failed.status != 401 || !ok || len(completed) != 0 {
		t.Errorf("a stage that failed: %d %s", failed.status, failed.raw)
	}
}

// Registration as Synapse's tools do it.
func TestSharedSecretRegistration(t *testing.T) {
	c := newCluster(t, func(cfg *Config, _ *Deps) { cfg.Registration.SharedSecret = "s3cret" })
	path := "/_synapse/admin/v1/register"
	request := func(name string, admin bool, secret string) map[string]any {
		nonce := c.do("GET", path, "", nil).ok().str("nonce")
		word := "notadmin"
		if admin {
			word = "admin"
		}
		m := hmac.New(sha1.New, []byte(secret))
		m.Write([]byte(strings.Join([]string{nonce, name, testPassword, word}, "\x00")))
		return map[string]any{"nonce": nonce, "username": name, "password": testPassword, "admin": admin, "mac": hex.EncodeToString(m.Sum(nil))}
	}
	q := request("root", true, "s3cret")
	if a := c.do("POST", path, "", q).ok(); a.str("user_id") != "@root:a.example" || a.str("access_token") == "" || a.str("home_server") != "a.example" {
		t.Fatalf("answer: %s", a.raw)
	}
	c.do("POST", path, "", q).fails(400, "M_UNKNOWN") // the nonce is used up
	acc, err := c.users.Account(t.Context(), "@root:a.example")
	must(t, err)
	if !acc.Admin {
		t.Error("not an admin")
	}
	must(t, c.redis.Set(nonceKey(q["nonce"].(string)), "1"))
	c.do("POST", path, "", q).fails(400, "M_UNKNOWN") // nor comes back
	c.do("POST", path, "", request("eve", true, "guessed")).fails(403, "M_FORBIDDEN")
	c.do("POST", path, "", map[string]any{"nonce": "x"}).fails(400, "M_BAD_JSON")
	c.do("POST", path, "", request("root", false, "s3cret")).fails(400, "M_USER_IN_USE")
}

// Client-server API, "Login".
func TestLogin(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	c.register("karl")
	if flows := c.do("GET", v3+"/login", "", nil).ok().get("flows").([]any); len(flows) != 2 {
		t.Errorf("flows: %v", flows)
	}
	ident := func(typ, user string) map[string]any { return map[string]any{"type": typ, "user": user} }
	good := func(more map[string]any) map[string]any {
		q := map[string]any{"type": "m.login.password", "identifier": ident("m.id.user", "anna"), "password": testPassword}
		for k, v := range more {
			q[k] = v
		}
		return q
	}
	for _, q := range []map[string]any{
		good(nil), good(map[string]any{"identifier": ident("m.id.user", "@anna:a.example")}), good(map[string]any{"identifier": ident("m.id.user", "ANNA")}),
		{"type": "m.login.password", "user": "anna", "password": testPassword},
	} {
		if a := c.do("POST", v3+"/login", "", q).ok(); a.str("user_id") != string(anna.id) || a.str("device_id") == "" {
			t.Errorf("answer: %s", a.raw)
		}
	}
	for name, tc := range map[string]struct {
		body   any
		status int
		code   string
	}{
		"wrong password":  {good(map[string]any{"password": "wrong"}), 403, "M_FORBIDDEN"},
		"unknown user":    {good(map[string]any{"identifier": ident("m.id.user", "nobody")}), 403, "M_FORBIDDEN"},
		"of elsewhere":    {good(map[string]any{"identifier": ident("m.id.user", "@anna:elsewhere.example")}), 403, "M_FORBIDDEN"},
		"Kelvin sign":     {good(map[string]any{"identifier": ident("m.id.user", "\u212aarl")}), 403, "M_FORBIDDEN"},
		"endless":         {good(map[string]any{"password": strings.Repeat("x", 5000)}), 403, "M_FORBIDDEN"},
		"no password":     {map[string]any{"type": "m.login.password", "identifier": ident("m.id.user", "anna")}, 400, "M_MISSING_PARAM"},
		"no identifier":   {map[string]any{"type": "m.login.password", "password": "x"}, 400, "M_MISSING_PARAM"},
		"third party":     {good(map[string]any{"identifier": map[string]any{"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}}), 403, "M_FORBIDDEN"},
		"phone":           {good(map[string]any{"identifier": map[string]any{"type": "m.id.phone", "country": "DE", "phone": "1"}}), 403, "M_FORBIDDEN"},
		"unknown id type": {good(map[string]any{"identifier": ident("m.id.face", "anna")}), 400, "M_UNKNOWN"},
		"unknown type":    {map[string]any{"type": "m.login.magic"}, 400, "M_UNKNOWN"},
		"no type":         {map[string]any{}, 400, "M_MISSING_PARAM"},
		"token":           {map[string]any{"type": "m.login.token", "token": "x"}, 400, "M_UNKNOWN"},
	} {
		t.Run(name, func(t *testing.T) { c.do("POST", v3+"/login", "", tc.body).fails(tc.status, tc.code) })
	}
	// "The server may invalidate any access token previously associated with that device."
	again := c.login(anna.id, map[string]any{"device_id": anna.device})
	anna.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	again.do("GET", v3+"/account/whoami", nil).ok()
}

// Client-server API, "Using access tokens" and "Soft logout".
func TestAccessTokens(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	other := c.login(anna.id, nil)
	c.do("GET", v3+"/account/whoami", "", nil).fails(401, "M_MISSING_TOKEN")
	for _, bad := range []string{"x", anna.token + "x", anna.token[:len(anna.token)-1], "hat_AAAA", "hat_" + strings.Repeat("_", 60), "hrt_" + anna.token[4:]} {
		a := c.do("GET", v3+"/account/whoami", bad, nil).fails(401, "M_UNKNOWN_TOKEN")
		if a.get("soft_logout") != false {
			t.Errorf("token %q: %s", bad, a.raw)
		}
	}
	c.do("GET", v3+"/account/whoami?access_token="+anna.token, "", nil).ok()
	anna.do("POST", v3+"/logout", nil).ok()
	anna.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	other.do("GET", v3+"/account/whoami", nil).ok()
	third := c.login(anna.id, nil)
	third.do("POST", v3+"/logout/all", nil).ok()
	for _, u := range []*user{third, other} {
		u.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	}
	c.do("GET", v3+"/nothing", "", nil).fails(404, "M_UNRECOGNIZED")
	c.do("PATCH", v3+"/login", "", nil).fails(405, "M_UNRECOGNIZED")
}

// expire lets the time of an access token, which was made in a span of time and has not been used, pass.
func (c *cluster) expire(access string, from, to time.Time) {
	c.t.Helper()
	part, hash, ok := session.ParseToken(session.AccessToken, access)
	if !ok {
		c.t.Fatalf("token %s", access)
	}
	var ends int64
	err := c.shards.For(part).QueryRow(c.t.Context(), `WITH old AS (SELECT expires_ts FROM access_token WHERE part = $1 AND hash = $2)
		UPDATE access_token SET expires_ts = $3 WHERE part = $1 AND hash = $2 RETURNING (SELECT expires_ts FROM old)`,
		int32(part), hash[:], userdb.Millis(from)).Scan(&ends)
	must(c.t, err)
	if life := Defaults().Tokens.Access; ends < userdb.Millis(from.Add(life)) || ends > userdb.Millis(to.Add(life)) {
		c.t.Errorf("the token ends at %d; it was made between %d and %d", ends, userdb.Millis(from), userdb.Millis(to))
	}
}

// Client-server API, "Refreshing access tokens".
func TestRefresh(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	s := c.login(anna.id, map[string]any{"refresh_token": true})
	s.do("GET", v3+"/account/whoami", nil).ok()
	refresh := func(token string) *reply {
		return c.do("POST", v3+"/refresh", "", map[string]string{"refresh_token": token})
	}
	// A retry whose first answer was lost works: "the old refresh token remains valid until the new one is used".
	lost := refresh(s.refreshToken).ok()
	second := refresh(s.refreshToken).ok()
	refresh(lost.str("refresh_token")).fails(401, "M_UNKNOWN_TOKEN")
	c.do("GET", v3+"/account/whoami", second.str("access_token"), nil).ok()
	refresh(s.refreshToken).fails(401, "M_UNKNOWN_TOKEN")
	s.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	before := time.Now()
	third := refresh(second.str("refresh_token")).ok()
	c.expire(third.str("access_token"), before, time.Now())
	if a := c.do("GET", v3+"/account/whoami", third.str("access_token"), nil); a.status != 401 || a.get("soft_logout") != true {
		t.Errorf("a token that has expired: %d %s", a.status, a.raw)
	}
	fourth := refresh(third.str("refresh_token")).ok()
	c.do("GET", v3+"/account/whoami", fourth.str("access_token"), nil).ok()
	refresh("").fails(400, "M_MISSING_PARAM")
	refresh("garbage").fails(401, "M_UNKNOWN_TOKEN")
}

// Client-server API, "Matrix User ID" (identifier types): what people type for their user id.
func TestTypedUser(t *testing.T) {
	const server = "localhost:8448"
	for text, want := range map[string]id.User{
		"alice":                 "@alice:localhost:8448",
		" alice ":               "@alice:localhost:8448",
		"@alice:localhost:8448": "@alice:localhost:8448",
		"@alice:localhost":      "@alice:localhost:8448",
		"alice:localhost":       "@alice:localhost:8448",
		"@Alice:LOCALHOST":      "@Alice:localhost:8448", // the account is looked for in lower case too
		"@alice:localhost:8449": "@alice:localhost:8449",
		"@alice:else.example":   "@alice:else.example",
	} {
		if got, err := typedUser(text, server); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"@", "@alice", ":"} {
		if got, err := typedUser(text, server); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
}
