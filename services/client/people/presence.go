package people

import (
	"errors"
	"net/http"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/presence"
	"hanse/services/client/core"
)

func (c *People) presenceRoutes(rt *core.Routes) {
	rt.Auth.Handle("PUT /presence/{userId}/status", c.putPresence)
	rt.Auth.Handle("GET /presence/{userId}/status", c.getPresence)
}

// putPresence answers PUT /presence/{userId}/status (client-server API, "Presence").
func (c *People) putPresence(w http.ResponseWriter, r *http.Request) error {
	user, err := core.OwnUser(r)
	if err != nil {
		return err
	}
	var q struct {
		Presence *string `json:"presence"`
		Status   *string `json:"status_msg"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Presence == nil {
		return merr.MissingParam("presence")
	}
	if !presence.Valid(*q.Presence) {
		return merr.InvalidParam("Not a presence state")
	}
	if err := c.Limit(r, "presence"); err != nil {
		return err
	}
	status := ""
	if q.Status != nil {
		status = *q.Status
	}
	if len(status) > presence.MaxStatus {
		return merr.InvalidParam("status_msg is too long")
	}
	if _, err := c.presence.Change(r.Context(), user, nil, presence.Put(core.Me(r).Device, *q.Presence, status)); err != nil {
		// Presence is worth no error: the client can do nothing about it.
		c.Log.WarnContext(r.Context(), "presence not stored", "err", err)
	}
	return httpx.Empty(w)
}

// getPresence answers GET /presence/{userId}/status: for oneself, and for those whom one shares a room with.
func (c *People) getPresence(w http.ResponseWriter, r *http.Request) error {
	user, err := core.PathUser(r, "userId")
	if err != nil {
		return err
	}
	ctx, viewer := r.Context(), core.Me(r).User
	if user != viewer {
		shared, err := c.sharing.SharedWith(ctx, viewer, []id.User{user})
		if err != nil {
			return err
		}
		if !shared[user] {
			return merr.Forbidden("You are not allowed to see their presence.")
		}
	}
	p, err := c.presence.Get(ctx, user)
	if err != nil {
		if !errors.Is(err, presence.ErrUnknown) {
			c.Log.WarnContext(ctx, "presence could not be read", "err", err)
		}
		return httpx.OK(w, map[string]any{"presence": presence.Offline})
	}
	answer := map[string]any{"presence": p.Presence}
	if ago := presence.Ago(p, time.Now()); ago > 0 {
		answer["last_active_ago"] = ago.Milliseconds()
		answer["currently_active"] = p.CurrentlyActive
	}
	if p.StatusMsg != "" {
		answer["status_msg"] = p.StatusMsg
	}
	return httpx.OK(w, answer)
}
