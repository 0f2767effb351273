package client

import (
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/session"
)

// routes are the groups that endpoints are registered in. Open ones need no access token.
type routes struct {
	root   *httpx.Router
	open   *httpx.Group // /_matrix/client/{r0,v3}
	auth   *httpx.Group
	openV1 *httpx.Group // /_matrix/client/v1
	authV1 *httpx.Group
	// guests may use these, of v3, too; all other authenticated routes refuse them (client-server API, "Guest Access").
	guest *httpx.Group
	// authUnstable is for endpoints of v1, or by the name of a proposal (then it is a part of the path).
	authUnstable func(name string) *httpx.Group
}

// largeBody is for uploads of many keys at once.
const largeBody = 10 << 20

// Routes registers the endpoints of the role.
func (c *Client) Routes(rt *httpx.Router) {
	// Clients still call endpoints by the names of the time before they were in a version: as with Synapse, all are there.
	v3 := rt.Group("/_matrix/client/v3", "/_matrix/client/r0", "/_matrix/client/unstable").With(httpx.PlainText)
	v1 := rt.Group("/_matrix/client/v1").With(httpx.PlainText)
	r := &routes{
		root: rt, open: v3, openV1: v1,
		auth:   v3.With(c.sessions.Required, c.noGuests, c.perUser),
		authV1: v1.With(c.sessions.Required, c.noGuests, c.perUser),
		guest:  v3.With(c.sessions.Required, c.perUser),
		authUnstable: func(name string) *httpx.Group {
			return rt.Group("/_matrix/client/unstable"+name).With(httpx.PlainText, c.sessions.Required, c.noGuests, c.perUser)
		},
	}
	for _, add := range []func(*routes){
		c.wellKnownRoutes, c.loginRoutes, c.registerRoutes, c.accountRoutes, c.deviceRoutes, c.dehydratedRoutes, c.profileRoutes,
		c.accountDataRoutes, c.filterRoutes, c.pushRuleRoutes, c.pusherRoutes, c.keyRoutes, c.crossSigningRoutes,
		c.backupRoutes, c.toDeviceRoutes, c.presenceRoutes, c.directorySearchRoutes, c.searchRoutes, c.turnRoutes, c.thirdPartyRoutes, c.openIDRoutes,
		c.mutualRoomsRoutes, c.reportRoutes, c.roomRoutes,
	} {
		add(r)
	}
}

// noGuests refuses guests: 403 M_GUEST_ACCESS_FORBIDDEN.
func (c *Client) noGuests(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if session.From(r).Guest {
			return merr.GuestAccessForbidden()
		}
		return next(w, r)
	}
}

// perUser applies the limit of requests of any kind.
func (c *Client) perUser(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := c.limit(r, "request"); err != nil {
			return err
		}
		return next(w, r)
	}
}

// limit takes one action of a kind from the budget of the user who makes the request, or without one of its address.
func (c *Client) limit(r *http.Request, kind string) error {
	if i := session.From(r); i != nil {
		if !i.RateLimited() {
			return nil
		}
		return c.limits.Allow(r.Context(), kind, string(i.User))
	}
	return c.limits.Allow(r.Context(), kind, httpx.ClientKey(r))
}

// pathUser parses a user id in the path.
func pathUser(r *http.Request, name string) (id.User, error) {
	u, err := id.ParseUser(param(r, name))
	if err != nil {
		return "", merr.InvalidParam("Not a valid user ID")
	}
	return u, nil
}

// ownUser checks that a user id in the path is that of who asks: 403 otherwise.
func ownUser(r *http.Request) (id.User, error) {
	u, err := pathUser(r, "userId")
	if err != nil {
		return "", err
	}
	if u != me(r).User {
		return "", merr.Forbidden("Cannot act for other users")
	}
	return u, nil
}

// pathRoom parses a room id in the path.
func pathRoom(r *http.Request) (id.Room, error) {
	room, err := id.ParseRoom(param(r, "roomId"))
	if err != nil {
		return "", merr.InvalidParam("Not a valid room ID")
	}
	return room, nil
}
