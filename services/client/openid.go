package client

import (
	"crypto/rand"
	"net/http"
	"time"

	"hanse/pkg/httpx"
)

func (c *Client) openIDRoutes(rt *routes) {
	rt.auth.Handle("POST /user/{userId}/openid/request_token", c.openIDToken)
}

// openIDToken answers POST /user/{userId}/openid/request_token (client-server API, "OpenID").
func (c *Client) openIDToken(w http.ResponseWriter, r *http.Request) error {
	user, err := ownUser(r)
	if err != nil {
		return err
	}
	token, life := rand.Text(), c.cfg.Tokens.OpenID
	if err := c.users.AddOpenIDToken(r.Context(), token, user, time.Now().Add(life)); err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{
		"access_token": token, "token_type": "Bearer", "matrix_server_name": user.Server(), "expires_in": int64(life.Seconds()),
	})
}
