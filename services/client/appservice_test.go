package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/asquery"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	"hanse/services/client"
	"hanse/services/client/clienttest"
)

const v1 = "/_matrix/client/v1"

// bridge starts a service that answers as a test says, and returns its registration.
func bridge(t *testing.T, name, more string, answer http.HandlerFunc) *appservice.Service {
	t.Helper()
	srv := httptest.NewServer(answer)
	t.Cleanup(srv.Close)
	return service(t, name, srv.URL, more)
}

func service(t *testing.T, name, url, more string) *appservice.Service {
	t.Helper()
	s, err := appservice.Parse([]byte(strings.ReplaceAll(`
id: NAME
url: `+url+`
as_token: as-NAME
hs_token: hs-NAME
sender_localpart: NAMEbot
rate_limited: false
protocols: [NAME]
namespaces:
  users: [{exclusive: true, regex: "@_NAME_.*"}, {exclusive: false, regex: "@shared_.*"}]
  aliases: [{exclusive: true, regex: "#_NAME_.*"}]
`+more, "NAME", name)), "a.example", "b.example")
	clienttest.Must(t, err)
	return s
}

// with makes a worker know services.
func with(t *testing.T, services ...*appservice.Service) clienttest.Option {
	return func(_ *client.Config, d *client.Deps) {
		d.Appservices = appservice.Of(services...)
		d.Queries = asquery.New(d.Appservices, asclient.New(asclient.Config{}), nil, nil)
		var err error
		d.Sessions, err = session.New(session.Defaults(), d.Users, d.Appservices, d.Bus, nil, nil)
		clienttest.Must(t, err)
	}
}

// Application service API, "Server admin style permissions": who may register and log in as whom.
func TestExclusiveUsers(t *testing.T) {
	c := clienttest.New(t, with(t, service(t, "irc", "null", ""), service(t, "xmpp", "null", "server_name: b.example\n")))
	register := func(token, name string) *clienttest.Reply {
		return c.Do("POST", clienttest.V3+"/register", token, map[string]any{"type": "m.login.application_service", "username": name, "inhibit_login": true})
	}
	if a := register("as-irc", "_irc_x").OK(); a.Str("user_id") != "@_irc_x:a.example" || a.Str("access_token") != "" {
		t.Errorf("registered: %s", a.Raw)
	}
	register("as-irc", "_irc_x").Fails(400, "M_USER_IN_USE")
	register("as-irc", "_other_x").Fails(400, "M_EXCLUSIVE")
	register("as-irc", "shared_x").OK()
	register("", "_irc_y").Fails(401, "M_MISSING_TOKEN")
	register("nobody", "_irc_y").Fails(401, "M_UNKNOWN_TOKEN")
	// A service of another name has users of that name, whatever host it asks.
	if a := register("as-xmpp", "_xmpp_x").OK(); a.Str("user_id") != "@_xmpp_x:b.example" {
		t.Errorf("registered: %s", a.Raw)
	}
	register("as-xmpp", "_irc_x").Fails(400, "M_EXCLUSIVE")
	for name, code := range map[string]string{"_irc_z": "M_EXCLUSIVE", "ircbot": "M_EXCLUSIVE", "_z": "M_INVALID_USERNAME"} {
		c.Do("POST", clienttest.V3+"/register", "", map[string]any{"username": name, "password": "a long password 1", "auth": map[string]string{"type": "m.login.dummy"}}).Fails(400, code)
		c.Do("GET", clienttest.V3+"/register/available?username="+name, "", nil).Fails(400, code)
	}

	login := func(token, user string) *clienttest.Reply {
		return c.Do("POST", clienttest.V3+"/login", token, map[string]any{"type": "m.login.application_service", "identifier": map[string]string{"type": "m.id.user", "user": user}})
	}
	if a := login("as-irc", "_irc_x").OK(); a.Str("user_id") != "@_irc_x:a.example" || a.Str("access_token") == "" {
		t.Errorf("logged in: %s", a.Raw)
	}
	if a := login("as-xmpp", "_xmpp_x").OK(); a.Str("user_id") != "@_xmpp_x:b.example" {
		t.Errorf("logged in: %s", a.Raw)
	}
	login("as-xmpp", "@_irc_x:a.example").Fails(403, "M_EXCLUSIVE")
	login("as-irc", "@_xmpp_x:b.example").Fails(403, "M_EXCLUSIVE")
	c.Do("GET", clienttest.V3+"/account/whoami?user_id=@_xmpp_x:b.example", "as-irc", nil).Fails(403, "M_FORBIDDEN")
	if a := c.Do("GET", clienttest.V3+"/account/whoami?user_id=@_xmpp_x:b.example", "as-xmpp", nil).OK(); a.Str("user_id") != "@_xmpp_x:b.example" {
		t.Errorf("who: %s", a.Raw)
	}
}

// Application service API, "Device management", "Cross-signing" and "Identity assertion".
func TestDevicesOfAppservices(t *testing.T) {
	c := clienttest.New(t, with(t, service(t, "irc", "null", "")))
	c.Do("POST", clienttest.V3+"/register", "as-irc", map[string]any{"type": "m.login.application_service", "username": "_irc_x", "inhibit_login": true}).OK()
	const as = "?user_id=@_irc_x:a.example"
	if a := c.Do("PUT", clienttest.V3+"/devices/D1"+as, "as-irc", map[string]any{"display_name": "one"}); a.Status != 201 {
		t.Errorf("created: %d %s", a.Status, a.Raw)
	}
	c.Do("PUT", clienttest.V3+"/devices/D1"+as, "as-irc", map[string]any{"display_name": "two"}).OK()
	for _, name := range []string{"device_id", "org.matrix.msc3202.device_id"} {
		if a := c.Do("GET", clienttest.V3+"/account/whoami"+as+"&"+name+"=D1", "as-irc", nil).OK(); a.Str("device_id") != "D1" {
			t.Errorf("%s: %s", name, a.Raw)
		}
		c.Do("GET", clienttest.V3+"/account/whoami"+as+"&"+name+"=D2", "as-irc", nil).Fails(400, "M_UNKNOWN_DEVICE")
	}
	c.Do("DELETE", clienttest.V3+"/devices/D1"+as, "as-irc", nil).OK()
	c.Do("GET", clienttest.V3+"/devices/D1"+as, "as-irc", nil).Fails(404, "M_NOT_FOUND")
	c.Register("anna").Do("PUT", clienttest.V3+"/devices/NEW", map[string]any{}).Fails(404, "M_NOT_FOUND")
}

// Application service API, "Server admin style permissions" and "Querying": aliases.
func TestAliasesOfAppservices(t *testing.T) {
	var c *clienttest.Cluster
	s := bridge(t, "irc", "", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "made:a.example") {
			put := c.Do("PUT", clienttest.V3+"/directory/room/%23_irc_made:a.example", "as-irc", map[string]string{"room_id": "!r:a.example"})
			w.WriteHeader(put.Status)
			fmt.Fprint(w, "{}")
			return
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errcode":"M_NOT_FOUND"}`)
	})
	c = clienttest.New(t, with(t, s, service(t, "xmpp", "http://127.0.0.1:1", "")))
	anna := c.Register("anna")
	path := func(alias string) string { return clienttest.V3 + "/directory/room/%23" + alias + ":a.example" }
	room := map[string]string{"room_id": "!r:a.example"}
	if a := anna.Do("GET", path("_irc_made"), nil).OK(); a.Str("room_id") != "!r:a.example" {
		t.Errorf("alias: %s", a.Raw)
	}
	anna.Do("GET", path("_irc_no"), nil).Fails(404, "M_NOT_FOUND")
	anna.Do("GET", path("nobody"), nil).Fails(404, "M_NOT_FOUND")
	anna.Do("GET", path("_xmpp_x"), nil).Fails(408, "M_NOT_FOUND") // the service does not answer
	anna.Do("PUT", path("_irc_x"), room).Fails(400, "M_EXCLUSIVE")
	anna.Do("DELETE", path("_irc_made"), nil).Fails(400, "M_EXCLUSIVE")
	c.Do("PUT", path("_irc_x"), "as-xmpp", room).Fails(400, "M_EXCLUSIVE")
	c.Do("PUT", path("elsewhere"), "as-irc", room).Fails(400, "M_EXCLUSIVE")
	c.Do("DELETE", path("_irc_made"), "as-xmpp", nil).Fails(400, "M_EXCLUSIVE")
}

// Application service API, "Querying": a user who is looked up is made by the service.
func TestUsersThatServicesMake(t *testing.T) {
	var users *userdb.DB
	s := bridge(t, "irc", "", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/@_irc_made:a.example") {
			_, err := users.CreateAccount(context.Background(), userdb.NewAccount{User: "@_irc_made:a.example", Appservice: "irc", Displayname: "Made", CreatedTS: 1})
			if err == nil {
				fmt.Fprint(w, "{}")
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	})
	c := clienttest.New(t, with(t, s))
	users = c.Users
	if a := c.Do("GET", clienttest.V3+"/profile/@_irc_made:a.example", "", nil).OK(); a.Str("displayname") != "Made" {
		t.Errorf("profile: %s", a.Raw)
	}
	c.Do("GET", clienttest.V3+"/profile/@_irc_no:a.example", "", nil).Fails(404, "M_NOT_FOUND")
}

// Application service API, "Pinging".
func TestPing(t *testing.T) {
	var status atomic.Int32
	s := bridge(t, "irc", "", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		fmt.Fprint(w, `{"errcode":"M_FORBIDDEN"}`)
	})
	c := clienttest.New(t, with(t, s, service(t, "dead", "http://127.0.0.1:1", ""), service(t, "none", "null", "")))
	ping := func(token, name string) *clienttest.Reply {
		return c.Do("POST", v1+"/appservice/"+name+"/ping", token, map[string]string{"transaction_id": "t"})
	}
	status.Store(200)
	if a := ping("as-irc", "irc").OK(); a.Get("duration_ms") == nil {
		t.Errorf("ping: %s", a.Raw)
	}
	c.Do("POST", "/_matrix/client/unstable/fi.mau.msc2659/appservice/irc/ping", "as-irc", map[string]string{}).OK()
	status.Store(403)
	a := ping("as-irc", "irc")
	a.Fails(502, "M_BAD_STATUS")
	if a.Get("status") != 403.0 || a.Str("body") != `{"errcode":"M_FORBIDDEN"}` {
		t.Errorf("bad status: %s", a.Raw)
	}
	ping("as-dead", "dead").Fails(502, "M_CONNECTION_FAILED")
	ping("as-none", "none").Fails(400, "M_URL_NOT_SET")
	ping("as-irc", "dead").Fails(403, "M_FORBIDDEN")
	ping(c.Register("anna").Token, "irc").Fails(403, "M_FORBIDDEN")
}

// Client-server API, "Third-party Networks".
func TestThirdPartyNetworks(t *testing.T) {
	s := bridge(t, "irc", "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("access_token") {
			t.Error("a service got a user's token")
		}
		switch r.URL.Path {
		case "/_matrix/app/v1/thirdparty/protocol/irc":
			fmt.Fprint(w, `{"instances":[{"network_id":"x"}]}`)
		case "/_matrix/app/v1/thirdparty/user/irc", "/_matrix/app/v1/thirdparty/user":
			fmt.Fprint(w, `[{"userid":"@_irc_x:a.example","protocol":"irc","fields":{}}]`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	c := clienttest.New(t, with(t, s))
	anna := c.Register("anna")
	if a := anna.Do("GET", clienttest.V3+"/thirdparty/protocols", nil).OK(); !strings.Contains(string(a.Raw), `"instance_id":"irc|x"`) {
		t.Errorf("protocols: %s", a.Raw)
	}
	anna.Do("GET", clienttest.V3+"/thirdparty/protocol/irc", nil).OK()
	anna.Do("GET", clienttest.V3+"/thirdparty/protocol/other", nil).Fails(404, "M_NOT_FOUND")
	for _, path := range []string{"/thirdparty/user/irc?nick=x&access_token=" + anna.Token, "/thirdparty/user?userid=@_irc_x:a.example"} {
		if a := anna.Do("GET", clienttest.V3+path, nil).OK(); !strings.Contains(string(a.Raw), "@_irc_x:a.example") {
			t.Errorf("%s: %s", path, a.Raw)
		}
	}
	anna.Do("GET", clienttest.V3+"/thirdparty/user?userid=x", nil).Fails(400, "M_INVALID_PARAM")
	if a := anna.Do("GET", clienttest.V3+"/thirdparty/location/irc?channel=x", nil).OK(); string(a.Raw) != "[]" {
		t.Errorf("locations: %s", a.Raw)
	}
}
