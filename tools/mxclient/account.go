package mxclient

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

const (
	v3 = "/_matrix/client/v3"
	v1 = "/_matrix/client/v1"
)

// Versions asks for the versions of the specification that the server has.
func (c *Client) Versions(ctx context.Context) ([]string, error) {
	var out struct {
		Versions []string `json:"versions"`
	}
	err := c.Do(ctx, Call{Method: http.MethodGet, Path: "/_matrix/client/versions", Out: &out})
	return out.Versions, err
}

// RegisterShared registers an account with the server's registration secret
// through Synapse's /_synapse/admin/v1/register, which others serve too.
func (c *Client) RegisterShared(ctx context.Context, secret, user, password string, admin bool) (*Client, error) {
	const path = "/_synapse/admin/v1/register"
	var n struct {
		Nonce string `json:"nonce"`
	}
	if err := c.Do(ctx, Call{Method: http.MethodGet, Path: path, Out: &n}); err != nil {
		return nil, err
	}
	role := "notadmin"
	if admin {
		role = "admin"
	}
	mac := hmac.New(sha1.New, []byte(secret))
	for i, part := range []string{n.Nonce, user, password, role} {
		if i > 0 {
			mac.Write([]byte{0})
		}
		mac.Write([]byte(part))
	}
	var s Session
	err := c.Do(ctx, Call{Method: http.MethodPost, Path: path, Out: &s, Body: map[string]any{
		"nonce": n.Nonce, "username": user, "password": password, "admin": admin, "mac": hex.EncodeToString(mac.Sum(nil)),
	}})
	if err != nil {
		return nil, err
	}
	return c.As(s), nil
}

// uiaStages are the stages that Register can pass without a person.
var uiaStages = map[string]bool{"m.login.dummy": true}

// Register registers an account by POST /register, passing the
// interactive-authentication stage m.login.dummy if the server wants one.
func (c *Client) Register(ctx context.Context, user, password string) (*Client, error) {
	body := map[string]any{"username": user, "password": password}
	var s Session
	call := Call{Method: http.MethodPost, Path: v3 + "/register", Body: body, Out: &s}
	err := c.Do(ctx, call)
	var refused *Error
	for range 3 {
		if !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized {
			break
		}
		stage, session, uerr := nextStage(refused.Body)
		if uerr != nil {
			return nil, fmt.Errorf("register %s: %w", user, uerr)
		}
		body["auth"] = map[string]string{"type": stage, "session": session}
		err = c.Do(ctx, call)
	}
	if err != nil {
		return nil, err
	}
	return c.As(s), nil
}

// nextStage picks, from a flow that can be passed, the first open stage.
func nextStage(raw []byte) (stage, session string, err error) {
	var uia struct {
		Session   string   `json:"session"`
		Completed []string `json:"completed"`
		Flows     []struct {
			Stages []string `json:"stages"`
		} `json:"flows"`
	}
	if err := json.Unmarshal(raw, &uia); err != nil {
		return "", "", fmt.Errorf("decode interactive authentication: %w", err)
	}
	done := map[string]bool{}
	for _, s := range uia.Completed {
		done[s] = true
	}
flows:
	for _, f := range uia.Flows {
		open := ""
		for _, s := range f.Stages {
			if done[s] {
				continue
			}
			if !uiaStages[s] {
				continue flows
			}
			if open == "" {
				open = s
			}
		}
		if open != "" {
			return open, uia.Session, nil
		}
	}
	return "", "", fmt.Errorf("no flow without a person in %s", raw)
}

// Login logs in with a password. device may be empty: the server makes one.
func (c *Client) Login(ctx context.Context, user, password, device string) (*Client, error) {
	body := map[string]any{
		"type": "m.login.password", "password": password,
		"identifier": map[string]string{"type": "m.id.user", "user": user},
	}
	if device != "" {
		body["device_id"] = device
	}
	var s Session
	if err := c.Do(ctx, Call{Method: http.MethodPost, Path: v3 + "/login", Body: body, Out: &s}); err != nil {
		return nil, err
	}
	return c.As(s), nil
}

// Logout ends the session.
func (c *Client) Logout(ctx context.Context) error {
	return c.Do(ctx, Call{Method: http.MethodPost, Path: v3 + "/logout"})
}

// Whoami asks whose the access token is.
func (c *Client) Whoami(ctx context.Context) (userID, deviceID string, err error) {
	var out Session
	err = c.Do(ctx, Call{Method: http.MethodGet, Path: v3 + "/account/whoami", Out: &out})
	return out.UserID, out.DeviceID, err
}

// SetDisplayName sets the account's display name.
func (c *Client) SetDisplayName(ctx context.Context, name string) error {
	return c.Do(ctx, Call{Method: http.MethodPut, Path: v3 + "/profile/" + esc(c.UserID) + "/displayname",
		Body: map[string]string{"displayname": name}})
}

// SetAccountData stores data of the account, or, if room is given, of it there.
func (c *Client) SetAccountData(ctx context.Context, room, typ string, data any) error {
	path := v3 + "/user/" + esc(c.UserID)
	if room != "" {
		path += "/rooms/" + esc(room)
	}
	return c.Do(ctx, Call{Method: http.MethodPut, Path: path + "/account_data/" + esc(typ), Body: data})
}

// SetPresence sets the account's presence.
func (c *Client) SetPresence(ctx context.Context, presence, status string) error {
	return c.Do(ctx, Call{Method: http.MethodPut, Path: v3 + "/presence/" + esc(c.UserID) + "/status",
		Body: map[string]string{"presence": presence, "status_msg": status}})
}

// SendToDevice sends messages[user][device].
func (c *Client) SendToDevice(ctx context.Context, typ, txn string, messages map[string]map[string]any) error {
	return c.Do(ctx, Call{Method: http.MethodPut, Path: v3 + "/sendToDevice/" + esc(typ) + "/" + esc(txn),
		Body: map[string]any{"messages": messages}})
}
