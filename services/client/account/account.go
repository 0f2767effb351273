package account

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomowner"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/core"
	"hanse/services/client/uia"
)

func (c *Account) accountRoutes(rt *core.Routes) {
	rt.Open.Handle("POST /account/password", rt.Optional(c.changePassword))
	rt.Open.Handle("POST /account/deactivate", rt.Optional(c.deactivate))
	rt.Auth.Handle("GET /account/3pid", c.threePIDs)
	for _, path := range []string{"/account/3pid", "/account/3pid/add", "/account/3pid/bind"} {
		rt.Auth.Handle("POST "+path, c.noThreePIDs)
	}
	for _, path := range []string{"/account/3pid/delete", "/account/3pid/unbind"} {
		rt.Auth.Handle("POST "+path, c.deleteThreePID)
	}
	for _, path := range []string{
		"/register/email/requestToken", "/register/msisdn/requestToken", "/account/password/email/requestToken",
		"/account/password/msisdn/requestToken", "/account/3pid/email/requestToken", "/account/3pid/msisdn/requestToken",
	} {
		rt.Open.Handle("POST "+path, c.noThreePIDs)
	}
}

// errNoWay answers requests without an access token that could be authenticated by a third-party identifier only,
// which nobody has here.
func errNoWay() error { return merr.MissingToken() }

// changePassword answers POST /account/password (client-server API, "Password management").
func (c *Account) changePassword(w http.ResponseWriter, r *http.Request) error {
	i := session.From(r)
	if i == nil {
		return errNoWay()
	}
	var q struct {
		NewPassword   *string `json:"new_password"`
		LogoutDevices *bool   `json:"logout_devices"`
	}
	s, err := c.uia.Begin(r, i.User, &q)
	if err != nil {
		return err
	}
	if q.NewPassword != nil {
		if err := checkNewPassword(*q.NewPassword); err != nil {
			return err
		}
	}
	if err := c.uia.Finish(r, s, [][]string{{uia.Password}}); err != nil {
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
	if err := c.Users.SetPassword(ctx, i.User, hash); err != nil {
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
func (c *Account) deactivate(w http.ResponseWriter, r *http.Request) error {
	i := session.From(r)
	if i == nil {
		return errNoWay()
	}
	var q struct {
		Erase bool `json:"erase"`
	}
	s, err := c.uia.Begin(r, i.User, &q)
	if err != nil {
		return err
	}
	if err := c.uia.Confirm(r, s); err != nil {
		return err
	}
	if err := c.closeAccount(r.Context(), i.User, q.Erase); err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"id_server_unbind_result": "success"})
}

func (c *Account) closeAccount(ctx context.Context, user id.User, erase bool) error {
	tasks, err := c.Users.Deactivate(ctx, user, erase)
	if err != nil {
		return err
	}
	c.Sessions.Forget(user, "")
	c.Tasks.StartAndWait(ctx, tasks...)
	return nil
}

// leaveAll makes the user of a closed account leave all rooms, and reject all invites.
func (c *Account) leaveAll(ctx context.Context, t userdb.Task) error {
	rows, err := c.Users.Memberships(ctx, t.User)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(core.RoomsAtOnce)
	for _, m := range rows {
		if m.Membership != "join" && m.Membership != "invite" && m.Membership != "knock" {
			continue
		}
		g.Go(func() error {
			return core.PassOver(roomowner.Call(ctx, c.Router, m.Room, func(ctx context.Context, rc roomv1.RoomClient) error {
				_, err := rc.Leave(ctx, &roomv1.LeaveRequest{
					RoomId: string(m.Room), UserId: string(t.User), Content: []byte(`{}`),
					Cause: &roomv1.Cause{UserId: string(t.User), Key: fmt.Sprintf("deactivate/%d", m.Pos)},
				})
				return err
			}))
		})
	}
	return g.Wait()
}

func (c *Account) threePIDs(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]any{"threepids": []any{}})
}

// noThreePIDs refuses to add or verify third-party identifiers: there is no identity server here.
func (c *Account) noThreePIDs(_ http.ResponseWriter, r *http.Request) error {
	if strings.HasSuffix(r.URL.Path, "/requestToken") {
		if err := c.Allow(r.Context(), limitRegister, httpx.ClientKey(r)); err != nil {
			return err
		}
		return merr.New(http.StatusBadRequest, merr.CodeThreepidMedium, "Third-party identifiers are not supported on this server")
	}
	return merr.New(http.StatusForbidden, merr.CodeForbidden, "3PID changes are disabled on this server")
}

func (c *Account) deleteThreePID(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]string{"id_server_unbind_result": "no-support"})
}
