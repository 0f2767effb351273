package about

import (
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/merr"
	"hanse/services/client/core"
)

// There are no third-party networks here (client-server API, "Third-party Networks").
func (c *About) thirdPartyRoutes(rt *core.Routes) {
	rt.Auth.Handle("GET /thirdparty/protocols", c.noProtocols)
	rt.Auth.Handle("GET /thirdparty/protocol/{protocol}", c.noProtocol)
	for _, path := range []string{"/thirdparty/location", "/thirdparty/user", "/thirdparty/location/{protocol}", "/thirdparty/user/{protocol}"} {
		rt.Auth.Handle("GET "+path, c.noMatches)
	}
}

func (c *About) noProtocols(w http.ResponseWriter, _ *http.Request) error { return httpx.Empty(w) }

func (c *About) noProtocol(http.ResponseWriter, *http.Request) error {
	return merr.NotFound("Unknown protocol")
}

func (c *About) noMatches(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, []any{})
}
