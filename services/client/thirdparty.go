package client

import (
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/merr"
)

// There are no third-party networks here (client-server API, "Third-party Networks").
func (c *Client) thirdPartyRoutes(rt *routes) {
	rt.auth.Handle("GET /thirdparty/protocols", c.noProtocols)
	rt.auth.Handle("GET /thirdparty/protocol/{protocol}", c.noProtocol)
	for _, path := range []string{"/thirdparty/location", "/thirdparty/user", "/thirdparty/location/{protocol}", "/thirdparty/user/{protocol}"} {
		rt.auth.Handle("GET "+path, c.noMatches)
	}
}

func (c *Client) noProtocols(w http.ResponseWriter, _ *http.Request) error { return httpx.Empty(w) }

func (c *Client) noProtocol(http.ResponseWriter, *http.Request) error {
	return merr.NotFound("Unknown protocol")
}

func (c *Client) noMatches(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, []any{})
}
