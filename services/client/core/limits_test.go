package core_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"hanse/pkg/httpx"
	"hanse/pkg/ratelimit"
	"hanse/services/client"
	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// Client-server API, "Rate limiting".
func TestRateLimits(t *testing.T) {
	c := clienttest.New(t, func(_ *client.Config, d *client.Deps) {
		l, err := ratelimit.New(ratelimit.Config{Limits: map[string]ratelimit.Limit{
			"login": {PerSecond: 0.01, Burst: 2}, "request": {PerSecond: 0.01, Burst: 3},
		}})
		clienttest.Must(t, err)
		d.Limits = l
	})
	anna := c.Register("anna")
	bad := map[string]any{"type": "m.login.password", "user": "anna", "password": "wrong"}
	c.Do("POST", v3+"/login", "", bad).Fails(403, "M_FORBIDDEN")
	c.Do("POST", v3+"/login", "", bad).Fails(403, "M_FORBIDDEN")
	a := c.Do("POST", v3+"/login", "", bad).Fails(429, "M_LIMIT_EXCEEDED")
	if a.Header.Get("Retry-After") == "" || a.Get("retry_after_ms") == nil {
		t.Errorf("answer: %v %s", a.Header, a.Raw)
	}
	for range 3 {
		anna.Do("GET", v3+"/account/whoami", nil).OK()
	}
	anna.Do("GET", v3+"/account/whoami", nil).Fails(429, "M_LIMIT_EXCEEDED")
}

// Client-server API, "Login": guesses at a password are limited by account, however its name is written.
func TestLoginLimitOfAnAccount(t *testing.T) {
	c := clienttest.New(t, func(_ *client.Config, d *client.Deps) {
		l, err := ratelimit.New(ratelimit.Config{Limits: map[string]ratelimit.Limit{"login_user": {PerSecond: 0.001, Burst: 3}}})
		clienttest.Must(t, err)
		d.Limits = l
	})
	anna := c.Register("anna")
	guess := func(name string) *clienttest.Reply {
		return c.Do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "password": "wrong",
			"identifier": map[string]any{"type": "m.id.user", "user": name}})
	}
	for _, name := range []string{"anna", "Anna", "@ANNA:a.example"} {
		guess(name).Fails(403, "M_FORBIDDEN")
	}
	for _, name := range []string{"anna", "aNNa", "@AnnA:a.example"} {
		guess(name).Fails(429, "M_LIMIT_EXCEEDED")
	}
	anna.Do("DELETE", v3+"/devices/X", map[string]any{"auth": anna.Auth()}).Fails(429, "M_LIMIT_EXCEEDED")
}

// Limits go by the /64 of an IPv6 address, of which a client has each address.
func TestLimitsByNetwork(t *testing.T) {
	c := clienttest.New(t, func(_ *client.Config, d *client.Deps) {
		l, err := ratelimit.New(ratelimit.Config{Limits: map[string]ratelimit.Limit{"login": {PerSecond: 0.001, Burst: 1}, "register": {PerSecond: 0.001, Burst: 1}}})
		clienttest.Must(t, err)
		d.Limits = l
	})
	rt := httpx.NewRouter(httpx.RouterConfig{})
	c.Client.Routes(rt)
	for _, path := range []string{"/login", "/register"} {
		for _, tc := range []struct {
			from    string
			limited bool
		}{{"2001:db8:1:2::1", false}, {"2001:db8:1:2:ffff::9", true}, {"2001:db8:1:3::1", false}} {
			r := httptest.NewRequest("POST", v3+path, strings.NewReader(`{"type":"x"}`))
			r.RemoteAddr = "[" + tc.from + "]:1000"
			w := httptest.NewRecorder()
			rt.ServeHTTP(w, r)
			if (w.Code == 429) != tc.limited {
				t.Errorf("%s from %s: %d %s", path, tc.from, w.Code, w.Body)
			}
		}
	}
}
