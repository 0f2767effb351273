package about

import (
	"encoding/json"
	"net/http"
	"net/url"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/services/client/core"
)

// thirdPartyRoutes pass questions about third-party networks on to the application services of the user's server name (client-server
// API, "Third-party Networks").
func (c *About) thirdPartyRoutes(rt *core.Routes) {
	rt.Auth.Handle("GET /thirdparty/protocols", c.protocols)
	rt.Auth.Handle("GET /thirdparty/protocol/{protocol}", c.protocol)
	for _, path := range []string{"/thirdparty/location", "/thirdparty/location/{protocol}"} {
		rt.Auth.Handle("GET "+path, c.locations)
	}
	for _, path := range []string{"/thirdparty/user", "/thirdparty/user/{protocol}"} {
		rt.Auth.Handle("GET "+path, c.networkUsers)
	}
}

func (c *About) protocols(w http.ResponseWriter, r *http.Request) error {
	all := c.Queries.Protocols(r.Context(), core.Me(r).User.Server())
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	return httpx.OK(w, all)
}

func (c *About) protocol(w http.ResponseWriter, r *http.Request) error {
	info := c.Queries.Protocol(r.Context(), core.Me(r).User.Server(), core.Param(r, "protocol"))
	if info == nil {
		return merr.NotFound("Unknown protocol")
	}
	return httpx.OK(w, info)
}

func (c *About) locations(w http.ResponseWriter, r *http.Request) error {
	protocol, fields := core.Param(r, "protocol"), networkFields(r)
	if protocol == "" {
		if _, err := id.ParseAlias(fields.Get("alias")); err != nil {
			return merr.InvalidParam("alias: not a room alias")
		}
	}
	return httpx.OK(w, c.Queries.Locations(r.Context(), core.Me(r).User.Server(), protocol, fields))
}

func (c *About) networkUsers(w http.ResponseWriter, r *http.Request) error {
	protocol, fields := core.Param(r, "protocol"), networkFields(r)
	if protocol == "" {
		if _, err := id.ParseUser(fields.Get("userid")); err != nil {
			return merr.InvalidParam("userid: not a user ID")
		}
	}
	return httpx.OK(w, c.Queries.Users(r.Context(), core.Me(r).User.Server(), protocol, fields))
}

// networkFields is the query without what is for us: a service does not get the token of somebody else.
func networkFields(r *http.Request) url.Values {
	fields := r.URL.Query()
	fields.Del("access_token")
	if core.Me(r).Appservice != nil {
		for _, name := range []string{"user_id", "device_id", "org.matrix.msc3202.device_id"} {
			fields.Del(name)
		}
	}
	return fields
}
