package account_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"hanse/pkg/session"
	"hanse/pkg/userdb"
	"hanse/services/client"
	"hanse/services/client/clienttest"
)

// Client-server API, "Account registration" and "User-Interactive Authentication API".
func TestRegister(t *testing.T) {
	c := clienttest.New(t)
	q := map[string]any{"username": "Anna", "password": clienttest.Password, "device_id": "DEV", "initial_device_display_name": "Phone"}
	first := c.Do("POST", v3+"/register", "", q)
	if first.Status != 401 || first.Get("flows") == nil || first.Str("session") == "" || first.Get("errcode") != nil {
		t.Fatalf("first answer: %d %s", first.Status, first.Raw)
	}
	q["auth"] = map[string]string{"type": "m.login.dummy", "session": first.Str("session")}
	a := c.Do("POST", v3+"/register", "", q).OK()
	if a.Str("user_id") != "@anna:a.example" || a.Str("device_id") != "DEV" || a.Str("access_token") == "" {
		t.Fatalf("answer: %s", a.Raw)
	}
	who := c.Do("GET", v3+"/account/whoami", a.Str("access_token"), nil).OK()
	if who.Str("user_id") != "@anna:a.example" || who.Str("device_id") != "DEV" || who.Get("is_guest") != false {
		t.Errorf("whoami: %s", who.Raw)
	}
	c.Do("GET", "/_matrix/client/r0/account/whoami", a.Str("access_token"), nil).OK()

	dummy := map[string]string{"type": "m.login.dummy"}
	for name, tc := range map[string]struct {
		body   any
		status int
		code   string
	}{
		"taken":           {map[string]any{"username": "anna", "password": clienttest.Password}, 400, "M_USER_IN_USE"},
		"bad characters":  {map[string]any{"username": "a b", "password": clienttest.Password}, 400, "M_INVALID_USERNAME"},
		"underscore":      {map[string]any{"username": "_x", "password": clienttest.Password}, 400, "M_INVALID_USERNAME"},
		"too long":        {map[string]any{"username": strings.Repeat("x", 300), "password": clienttest.Password}, 400, "M_INVALID_USERNAME"},
		"Kelvin sign":     {map[string]any{"username": "\u212aarl", "password": clienttest.Password}, 400, "M_INVALID_USERNAME"}, // Unicode's lower case is k
		"dotted capital":  {map[string]any{"username": "\u0130da", "password": clienttest.Password}, 400, "M_INVALID_USERNAME"},  // and i
		"of a bridge":     {map[string]any{"username": "bridgebot", "password": clienttest.Password}, 400, "M_EXCLUSIVE"},
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
		t.Run(name, func(t *testing.T) { c.Do("POST", v3+"/register", "", tc.body).Fails(tc.status, tc.code) })
	}
	c.Do("POST", v3+"/register?kind=guest", "", map[string]any{}).Fails(403, "M_FORBIDDEN")
	c.Do("POST", v3+"/register?kind=alien", "", map[string]any{}).Fails(400, "M_INVALID_PARAM")
	inhibited := c.Do("POST", v3+"/register", "", map[string]any{"username": "dora", "password": clienttest.Password, "inhibit_login": true, "auth": dummy}).OK()
	if inhibited.Get("access_token") != nil || inhibited.Get("device_id") != nil {
		t.Errorf("inhibit_login: %s", inhibited.Raw)
	}
	c.Do("GET", v3+"/register/available?username=free", "", nil).OK()
	c.Do("GET", v3+"/register/available?username=anna", "", nil).Fails(400, "M_USER_IN_USE")
	c.Do("GET", v3+"/register/available?username=A%20B", "", nil).Fails(400, "M_INVALID_USERNAME")
	c.Do("GET", v3+"/register/available", "", nil).Fails(400, "M_MISSING_PARAM")
}

func TestRegistrationPolicy(t *testing.T) {
	closed := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.Registration.Enabled = false })
	closed.Do("POST", v3+"/register", "", map[string]any{"username": "x", "password": "y"}).Fails(403, "M_FORBIDDEN")
	closed.Do("GET", v3+"/register/available?username=free", "", nil).Fails(403, "M_FORBIDDEN")
	closed.Do("GET", "/_synapse/admin/v1/register", "", nil).Fails(400, "M_UNKNOWN")

	c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) {
		cfg.Registration.Tokens = map[string]int64{"once": 1}
		cfg.Registration.Guests = true
	})
	token := func(v string) map[string]any {
		return map[string]any{"password": clienttest.Password, "auth": map[string]string{"type": "m.login.registration_token", "token": v}}
	}
	c.Do("POST", v3+"/register", "", map[string]any{"password": "x", "auth": map[string]string{"type": "m.login.dummy"}}).Fails(401, "M_UNRECOGNIZED")
	c.Do("POST", v3+"/register", "", token("wrong")).Fails(401, "M_UNAUTHORIZED")
	validity := "/_matrix/client/v1/register/m.login.registration_token/validity?token="
	if c.Do("GET", validity+"once", "", nil).OK().Get("valid") != true || c.Do("GET", validity+"x", "", nil).OK().Get("valid") != false {
		t.Error("validity of the token")
	}
	c.Do("POST", v3+"/register", "", token("once")).OK()
	c.Do("POST", v3+"/register", "", token("once")).Fails(401, "M_UNAUTHORIZED")
	if c.Do("GET", validity+"once", "", nil).OK().Get("valid") != false {
		t.Error("a used token is still valid")
	}
	guest := c.Do("POST", v3+"/register?kind=guest", "", map[string]any{"device_id": "MINE"}).OK()
	if guest.Str("device_id") == "MINE" {
		t.Error("a guest chose its device")
	}
	c.Do("GET", v3+"/account/whoami", guest.Str("access_token"), nil).OK()
	c.Do("GET", v3+"/pushers", guest.Str("access_token"), nil).Fails(403, "M_GUEST_ACCESS_FORBIDDEN")
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
				c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.Registration.Tokens = tc.tokens })
				q := map[string]any{"password": clienttest.Password}
				if username != "" {
					q["username"] = username
				}
				begin := c.Do("POST", v3+"/register", "", q)
				if completed, ok := begin.Get("completed").([]any); begin.Status != 401 || !ok || len(completed) != 0 {
					t.Fatalf("first answer: %d %s", begin.Status, begin.Raw)
				}
				auth := map[string]string{"session": begin.Str("session")}
				for k, v := range tc.stage {
					auth[k] = v
				}
				q["auth"] = auth
				first := c.Do("POST", v3+"/register", "", q).OK()
				again := c.Do("POST", v3+"/register", "", q).OK()
				if first.Str("user_id") != again.Str("user_id") || first.Str("device_id") != again.Str("device_id") {
					t.Errorf("made %s, then %s", first.Raw, again.Raw)
				}
				c.Do("GET", v3+"/account/whoami", again.Str("access_token"), nil).OK()
				// Another request is not what was authenticated, and the password is what proves that it is the same client.
				q["password"] = "another long password"
				a := c.Do("POST", v3+"/register", "", q)
				if a.Status == 200 || a.Str("session") == begin.Str("session") {
					t.Errorf("another request of a finished session: %d %s", a.Status, a.Raw)
				}
				if tc.tokens != nil {
					used, err := c.Users.RegistrationTokenUses(t.Context(), "once")
					clienttest.Must(t, err)
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
	c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.Registration.Tokens = map[string]int64{"many": 4} })
	q := map[string]any{"password": clienttest.Password}
	q["auth"] = map[string]string{"session": c.Do("POST", v3+"/register", "", q).Str("session"), "type": "m.login.registration_token", "token": "many"}
	answers := make(chan *clienttest.Reply)
	for range 4 {
		go func() { answers <- c.Do("POST", v3+"/register", "", q) }()
	}
	names := map[string]bool{}
	for range 4 {
		names[(<-answers).OK().Str("user_id")] = true
	}
	used, err := c.Users.RegistrationTokenUses(t.Context(), "many")
	clienttest.Must(t, err)
	if len(names) != 1 || used != 1 {
		t.Errorf("accounts %v, %d uses of the token", names, used)
	}
}

// Client-server API, "User-Interactive Authentication API": a session belongs to its operation and its user.
func TestSessionsAreNotLent(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	change := map[string]any{"new_password": "another long password"}
	a := anna.Do("POST", v3+"/account/password", change).Fails(401, "")
	auth := anna.Auth()
	auth["session"] = a.Str("session")
	change["auth"] = auth
	anna.Do("POST", v3+"/account/password", change).OK()
	anna.Do("POST", v3+"/account/password", change).OK() // the answer was lost; the old password is not right any more
	sessionOnly := map[string]any{"session": a.Str("session")}
	for what, r := range map[string]*clienttest.Reply{
		"other user":      bert.Do("POST", v3+"/account/password", map[string]any{"new_password": "another long password", "auth": sessionOnly}),
		"other operation": anna.Do("POST", v3+"/account/deactivate", map[string]any{"auth": sessionOnly}),
		"other password":  anna.Do("POST", v3+"/account/password", map[string]any{"new_password": "yet another password", "auth": sessionOnly}),
	} {
		if r.Status != 401 || r.Str("session") == a.Str("session") {
			t.Errorf("%s: %d %s", what, r.Status, r.Raw)
		}
	}
	failed := anna.Do("POST", v3+"/account/deactivate", map[string]any{"auth": map[string]any{"type": "m.login.password", "password": "wrong"}})
	if completed, ok := failed.Get("completed").([]any); failed.Status != 401 || !ok || len(completed) != 0 {
		t.Errorf("a stage that failed: %d %s", failed.Status, failed.Raw)
	}
}

// Registration as Synapse's tools do it.
func TestSharedSecretRegistration(t *testing.T) {
	c := clienttest.New(t, func(cfg *client.Config, _ *client.Deps) { cfg.Registration.SharedSecret = "s3cret" })
	path := "/_synapse/admin/v1/register"
	request := func(name string, admin bool, secret string) map[string]any {
		nonce := c.Do("GET", path, "", nil).OK().Str("nonce")
		word := "notadmin"
		if admin {
			word = "admin"
		}
		m := hmac.New(sha1.New, []byte(secret))
		m.Write([]byte(strings.Join([]string{nonce, name, clienttest.Password, word}, "\x00")))
		return map[string]any{"nonce": nonce, "username": name, "password": clienttest.Password, "admin": admin, "mac": hex.EncodeToString(m.Sum(nil))}
	}
	q := request("root", true, "s3cret")
	if a := c.Do("POST", path, "", q).OK(); a.Str("user_id") != "@root:a.example" || a.Str("access_token") == "" || a.Str("home_server") != "a.example" {
		t.Fatalf("answer: %s", a.Raw)
	}
	c.Do("POST", path, "", q).Fails(400, "M_UNKNOWN") // the nonce is used up
	acc, err := c.Users.Account(t.Context(), "@root:a.example")
	clienttest.Must(t, err)
	if !acc.Admin {
		t.Error("not an admin")
	}
	clienttest.Must(t, c.Redis.Set("hanse:register:"+q["nonce"].(string), "1"))
	c.Do("POST", path, "", q).Fails(400, "M_UNKNOWN") // nor comes back
	c.Do("POST", path, "", request("eve", true, "guessed")).Fails(403, "M_FORBIDDEN")
	c.Do("POST", path, "", map[string]any{"nonce": "x"}).Fails(400, "M_BAD_JSON")
	c.Do("POST", path, "", request("root", false, "s3cret")).Fails(400, "M_USER_IN_USE")
}

// Client-server API, "Login".
func TestLogin(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	c.Register("karl")
	if flows := c.Do("GET", v3+"/login", "", nil).OK().Get("flows").([]any); len(flows) != 2 {
		t.Errorf("flows: %v", flows)
	}
	ident := func(typ, user string) map[string]any { return map[string]any{"type": typ, "user": user} }
	good := func(more map[string]any) map[string]any {
		q := map[string]any{"type": "m.login.password", "identifier": ident("m.id.user", "anna"), "password": clienttest.Password}
		for k, v := range more {
			q[k] = v
		}
		return q
	}
	for _, q := range []map[string]any{
		good(nil), good(map[string]any{"identifier": ident("m.id.user", "@anna:a.example")}), good(map[string]any{"identifier": ident("m.id.user", "ANNA")}),
		{"type": "m.login.password", "user": "anna", "password": clienttest.Password},
	} {
		if a := c.Do("POST", v3+"/login", "", q).OK(); a.Str("user_id") != string(anna.ID) || a.Str("device_id") == "" {
			t.Errorf("answer: %s", a.Raw)
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
		t.Run(name, func(t *testing.T) { c.Do("POST", v3+"/login", "", tc.body).Fails(tc.status, tc.code) })
	}
	// "The server may invalidate any access token previously associated with that device."
	again := c.Login(anna.ID, map[string]any{"device_id": anna.Device})
	anna.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	again.Do("GET", v3+"/account/whoami", nil).OK()
}

// Client-server API, "Using access tokens" and "Soft logout".
func TestAccessTokens(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	other := c.Login(anna.ID, nil)
	c.Do("GET", v3+"/account/whoami", "", nil).Fails(401, "M_MISSING_TOKEN")
	for _, bad := range []string{"x", anna.Token + "x", anna.Token[:len(anna.Token)-1], "hat_AAAA", "hat_" + strings.Repeat("_", 60), "hrt_" + anna.Token[4:]} {
		a := c.Do("GET", v3+"/account/whoami", bad, nil).Fails(401, "M_UNKNOWN_TOKEN")
		if a.Get("soft_logout") != false {
			t.Errorf("token %q: %s", bad, a.Raw)
		}
	}
	c.Do("GET", v3+"/account/whoami?access_token="+anna.Token, "", nil).OK()
	anna.Do("POST", v3+"/logout", nil).OK()
	anna.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	other.Do("GET", v3+"/account/whoami", nil).OK()
	third := c.Login(anna.ID, nil)
	third.Do("POST", v3+"/logout/all", nil).OK()
	for _, u := range []*clienttest.User{third, other} {
		u.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	}
	c.Do("GET", v3+"/nothing", "", nil).Fails(404, "M_UNRECOGNIZED")
	c.Do("PATCH", v3+"/login", "", nil).Fails(405, "M_UNRECOGNIZED")
}

// expire lets the time of an access token, which was made in a span of time and has not been used, pass.
func expire(t *testing.T, c *clienttest.Cluster, access string, from, to time.Time) {
	t.Helper()
	part, hash, ok := session.ParseToken(session.AccessToken, access)
	if !ok {
		t.Fatalf("token %s", access)
	}
	var ends int64
	err := c.Shards.For(part).QueryRow(t.Context(), `WITH old AS (SELECT expires_ts FROM access_token WHERE part = $1 AND hash = $2)
		UPDATE access_token SET expires_ts = $3 WHERE part = $1 AND hash = $2 RETURNING (SELECT expires_ts FROM old)`,
		int32(part), hash[:], userdb.Millis(from)).Scan(&ends)
	clienttest.Must(t, err)
	if life := client.Defaults().Tokens.Access; ends < userdb.Millis(from.Add(life)) || ends > userdb.Millis(to.Add(life)) {
		t.Errorf("the token ends at %d; it was made between %d and %d", ends, userdb.Millis(from), userdb.Millis(to))
	}
}

// Client-server API, "Refreshing access tokens".
func TestRefresh(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	s := c.Login(anna.ID, map[string]any{"refresh_token": true})
	s.Do("GET", v3+"/account/whoami", nil).OK()
	refresh := func(token string) *clienttest.Reply {
		return c.Do("POST", v3+"/refresh", "", map[string]string{"refresh_token": token})
	}
	// A retry whose first answer was lost works: "the old refresh token remains valid until the new one is used".
	lost := refresh(s.RefreshToken).OK()
	second := refresh(s.RefreshToken).OK()
	refresh(lost.Str("refresh_token")).Fails(401, "M_UNKNOWN_TOKEN")
	c.Do("GET", v3+"/account/whoami", second.Str("access_token"), nil).OK()
	refresh(s.RefreshToken).Fails(401, "M_UNKNOWN_TOKEN")
	s.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	before := time.Now()
	third := refresh(second.Str("refresh_token")).OK()
	expire(t, c, third.Str("access_token"), before, time.Now())
	if a := c.Do("GET", v3+"/account/whoami", third.Str("access_token"), nil); a.Status != 401 || a.Get("soft_logout") != true {
		t.Errorf("a token that has expired: %d %s", a.Status, a.Raw)
	}
	fourth := refresh(third.Str("refresh_token")).OK()
	c.Do("GET", v3+"/account/whoami", fourth.Str("access_token"), nil).OK()
	refresh("").Fails(400, "M_MISSING_PARAM")
	refresh("garbage").Fails(401, "M_UNKNOWN_TOKEN")
}
