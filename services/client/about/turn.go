package about

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/services/client/core"
)

// TURN is the server over which calls go that cannot go directly.
type TURN struct {
	URIs         []string      `yaml:"uris" doc:"TURN servers for calls, as turn:turn.example.org?transport=udp. Empty: none."`
	SharedSecret string        `yaml:"shared_secret" secret:"true" doc:"Secret shared with the TURN servers (coturn: static-auth-secret)."`
	Lifetime     time.Duration `yaml:"lifetime" doc:"How long a user's credentials for the TURN servers are valid."`
}

// Validate reports what a TURN server could not work with.
func (t *TURN) Validate() error {
	var errs []error
	for _, uri := range t.URIs {
		scheme, rest, _ := strings.Cut(uri, ":")
		if scheme != "turn" && scheme != "turns" && scheme != "stun" && scheme != "stuns" || rest == "" {
			errs = append(errs, fmt.Errorf("uris: %q is not the URI of a TURN server", uri))
		}
	}
	if (len(t.URIs) == 0) != (t.SharedSecret == "") {
		errs = append(errs, errors.New("uris and shared_secret go together"))
	}
	if t.Lifetime < time.Minute {
		errs = append(errs, errors.New("lifetime: must be a minute at least"))
	}
	return errors.Join(errs...)
}

// turnServer answers GET /voip/turnServer (client-server API, "Voice over IP"): {} if there is none.
func (c *About) turnServer(w http.ResponseWriter, r *http.Request) error {
	if len(c.turn.URIs) == 0 {
		return httpx.Empty(w)
	}
	return httpx.OK(w, c.turn.credentials(core.Me(r).User, time.Now()))
}

// turnCredentials are a user's for a time.
type turnCredentials struct {
	Username string   `json:"username"`
	Password string   `json:"password"`
	URIs     []string `json:"uris"`
	TTL      int64    `json:"ttl"` // seconds
}

// credentials are made as TURN servers expect them that share a secret with us (draft-uberti-behave-turn-rest-00,
// section 2.2; coturn's use-auth-secret): the name says until when they are valid, the password that we made it.
func (t *TURN) credentials(user id.User, now time.Time) turnCredentials {
	name := fmt.Sprintf("%d:%s", now.Add(t.Lifetime).Unix(), user)
	mac := hmac.New(sha1.New, []byte(t.SharedSecret))
	mac.Write([]byte(name))
	return turnCredentials{Username: name, Password: base64.StdEncoding.EncodeToString(mac.Sum(nil)), URIs: t.URIs, TTL: int64(t.Lifetime / time.Second)}
}
