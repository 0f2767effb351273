package core

import (
	"context"
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/merr"
	"hanse/pkg/session"
)

// Routes are the groups that endpoints are registered in. Open ones need no access token.
type Routes struct {
	Root   *httpx.Router
	Open   *httpx.Group // /_matrix/client/{r0,v3}
	Auth   *httpx.Group
	OpenV1 *httpx.Group // /_matrix/client/v1
	AuthV1 *httpx.Group
	// Guest is for endpoints of v3 that guests may use, too; all other authenticated routes refuse them (client-server API,
	// "Guest Access").
	Guest *httpx.Group

	core *Core
}

// NewRoutes makes the groups.
func (c *Core) NewRoutes(rt *httpx.Router) *Routes {
	// Clients still call endpoints by the names of the time before they were in a version: as with Synapse, all are there.
	v3 := rt.Group("/_matrix/client/v3", "/_matrix/client/r0", "/_matrix/client/unstable").With(httpx.PlainText)
	v1 := rt.Group("/_matrix/client/v1").With(httpx.PlainText)
	return &Routes{
		Root: rt, Open: v3, OpenV1: v1,
		Auth:   v3.With(c.Sessions.Required, noGuests, c.PerUser),
		AuthV1: v1.With(c.Sessions.Required, noGuests, c.PerUser),
		Guest:  v3.With(c.Sessions.Required, c.PerUser),
		core:   c,
	}
}

// Unstable is for endpoints of v1 by their older paths, or by the name of a proposal (then it is a part of the path).
func (rt *Routes) Unstable(name string) *httpx.Group {
	c := rt.core
	return rt.Root.Group("/_matrix/client/unstable"+name).With(httpx.PlainText, c.Sessions.Required, noGuests, c.PerUser)
}

// Optional lets a request through with the identity of its token, or without one if it has none.
func (rt *Routes) Optional(next httpx.Handler) httpx.Handler {
	required := rt.core.Sessions.Required(noGuests(rt.core.PerUser(next)))
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := session.Token(r); err != nil {
			return next(w, r)
		}
		return required(w, r)
	}
}

// LargeBody is for uploads of many keys at once.
const LargeBody = 10 << 20

// noGuests refuses guests: 403 M_GUEST_ACCESS_FORBIDDEN.
func noGuests(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if session.From(r).Guest {
			return merr.GuestAccessForbidden()
		}
		return next(w, r)
	}
}

// PerUser applies the limit of requests of any kind.
func (c *Core) PerUser(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := c.Limit(r, "request"); err != nil {
			return err
		}
		return next(w, r)
	}
}

// Limit takes one action of a kind from the budget of the user who makes the request, or without one of its address.
func (c *Core) Limit(r *http.Request, kind string) error {
	if i := session.From(r); i != nil {
		if !i.RateLimited() {
			return nil
		}
		return c.Allow(r.Context(), kind, string(i.User))
	}
	return c.Allow(r.Context(), kind, httpx.ClientKey(r))
}

// Allow takes one action of a kind from the budget of a key (Limiter).
func (c *Core) Allow(ctx context.Context, kind, key string) error {
	return c.limits.Allow(ctx, kind, key)
}
