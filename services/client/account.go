package client

import (
	"context"
	"net/http"
	"strings"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/session"
)

func (c *Client) accountRoutes(rt *routes) {
	rt.open.Handle("POST /account/password", c.optional(c.changePassword))
	rt.open.Handle("POST /account/deactivate", c.optional(c.deactivate))
	rt.auth.Handle("GET /account/3pid", c.threePIDs)
	for _, path := range []string{"/account/3pid", "/account/3pid/add", "/account/3pid/bind"} {
		rt.auth.Handle("POST "+path, c.noThreePIDs)
	}
	for _, path := range []string{"/account/3pid/delete", "/account/3pid/unbind"} {
		rt.auth.Handle("POST "+path, c.deleteThreePID)
	}
	for _, path := range []string{
		"/register/email/requestToken", "/register/msisdn/requestToken", "/account/password/email/requestToken",
		"/account/password/msisdn/requestToken", "/account/3pid/email/requestToken", "/account/3pid/msisdn/requestToken",
	} {
		rt.open.Handle("POST "+path, c.noThreePIDs)
	}
}

// optional lets a request through with the identity of its token, or without one if it has none.
func (c *Client) optional(next httpx.Handler) httpx.Handler {
	required := c.sessions.Required(c.noGuests(c.perUser(next)))
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := session.Token(r); err != nil {
			return next(w, r)
		}
		return required(w, r)
	}
}

// errNoWay answers requests without an access token that could be authenticated by a third-party identifier only,
// which nobody has here.
func errNoWay() error { return merr.MissingToken() }

// changePassword answers POST /account/password (client-server API, "Password management").
func (c *Client) changePassword(w http.ResponseWriter, r *http.Request) error {
	i := session.From(r)
	if i == nil {
		return errNoWay()
	}
	var q struct {
		NewPassword   *string `json:"new_password"`
		LogoutDevices *bool   `json:"logout_devices"`
	}
	s, err := c.beginUIA(r, i.User, &q)
	if err != nil {
		return err
	}
	if q.NewPassword != nil {
		if err := checkNewPassword(*q.NewPassword); err != nil {
			return err
		}
	}
	if err := c.finishUIA(r, s, [][]string{{stagePassword}}); err != nil {
		return err
	}
	if q.NewPassword == nil {
		return merr.MissingParam("new_password")
	}
	ctx := r.Context()
	hash, err := c.hasher.Hash(ctx, *q.NewPassword)
	if err != nil {
		return err
	}
	if err := c.users.SetPassword(ctx, i.User, hash); err != nil {
		return err
	}
	if q.LogoutDevices == nil || *q.LogoutDevices {
		if err := c.logoutDevices(ctx, i.User, i.Device); err != nil {
			return err
		}
	}
	return httpx.Empty(w)
}

// deactivate answers POST /account/deactivate (client-server API, "Account deactivation").
func (c *Client) deactivate(w http.ResponseWriter, r *http.Request) error {
	i := session.From(r)
	if i == nil {
		return errNoWay()
	}
	var q struct {
		Erase bool `json:"erase"`
	}
	s, err := c.beginUIA(r, i.User, &q)
	if err != nil {
		return err
	}
	if err := c.confirm(r, s); err != nil {
		return err
	}
	if err := c.closeAccount(r.Context(), i.User, q.Erase); err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"id_server_unbind_result": "success"})
}

func (c *Client) closeAccount(ctx context.Context, user id.User, erase bool) error {
	tasks, err := c.users.Deactivate(ctx, user, erase)
	if err != nil {
		return err
	}
	c.sessions.Forget(user, "")
	c.startAndWait(ctx, tasks...)
	return nil
}

func (c *Client) threePIDs(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]any{"threepids": []any{}})
}

// noThreePIDs refuses to add or verify third-party identifiers: there is no identity server here.
func (c *Client) noThreePIDs(_ http.ResponseWriter, r *http.Request) error {
	if strings.HasSuffix(r.URL.Path, "/requestToken") {
		if err := c.limits.Allow(r.Context(), limitRegister, httpx.ClientKey(r)); err != nil {
			return err
		}
		return merr.New(http.StatusBadRequest, merr.CodeThreepidMedium, "Third-party identifiers are not supported on this server")
	}
	return merr.New(http.StatusForbidden, merr.CodeForbidden, "3PID changes are disabled on this server")
}

func (c *Client) deleteThreePID(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]string{"id_server_unbind_result": "no-support"})
}
