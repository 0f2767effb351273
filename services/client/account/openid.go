package account

import (
	"crypto/rand"
	"net/http"
	"time"

	"hanse/pkg/httpx"
	"hanse/services/client/core"
)

// openIDToken answers POST /user/{userId}/openid/request_token (client-server API, "OpenID").
func (c *Account) openIDToken(w http.ResponseWriter, r *http.Request) error {
	user, err := core.OwnUser(r)
	if err != nil {
		return err
	}
	token, life := rand.Text(), c.tokens.OpenID
	if err := c.Users.AddOpenIDToken(r.Context(), token, user, time.Now().Add(life)); err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{
		"access_token": token, "token_type": "Bearer", "matrix_server_name": user.Server(), "expires_in": int64(life.Seconds()),
	})
}
