package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
)

// The stages of user-interactive authentication that this server knows (client-server API, "Authentication types").
const (
	stagePassword = "m.login.password"
	stageDummy    = "m.login.dummy"
	stageToken    = "m.login.registration_token"
)

// uiaSession is what is kept between the requests of one authentication. It lives in Redis, signed, as it says which stages
// are done: if it is lost, the client starts again.
type uiaSession struct {
	// Operation is the method and path that the session was made for; it is good for no other.
	Operation string   `json:"operation"`
	User      id.User  `json:"user,omitempty"`
	Done      []string `json:"done,omitempty"`
	// Token is the registration token that was shown.
	Token string `json:"token,omitempty"`
}

// uiaAuth is the auth member of a request.
type uiaAuth struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Identifier *identifier `json:"identifier"`
	User       string      `json:"user"` // deprecated form of the identifier
	Password   *string     `json:"password"`
	Token      string      `json:"token"`
}

// interactive does user-interactive authentication (client-server API, "User-Interactive Authentication API"). It
// returns the finished session, or the 401 that asks for more. user is who makes the request, "" before there is an
// account.
func (c *Client) interactive(r *http.Request, raw json.RawMessage, user id.User, flows [][]string) (*uiaSession, error) {
	var auth uiaAuth
	if len(raw) > 0 && string(raw) != "null" {
		if err := httpx.Unmarshal(raw, &auth); err != nil {
			return nil, err
		}
	}
	ctx := r.Context()
	sid, s := auth.Session, c.loadUIA(ctx, auth.Session)
	operation := r.Method + " " + r.URL.Path
	if s == nil || s.Operation != operation || s.User != user {
		// A session that is unknown, has expired, or was made for something else: start again. What the request shows
		// counts for the new one, so that flows of one stage need one request.
		sid, s = rand.Text(), &uiaSession{Operation: operation, User: user}
	}
	var failed *merr.Error
	if auth.Type != "" {
		if err := c.stage(r, &auth, s, user, flows); err != nil {
			var e *merr.Error
			if !errors.As(err, &e) || e.Status >= http.StatusInternalServerError || e.Code == merr.CodeLimitExceeded {
				return nil, err
			}
			failed = e
		} else if !slices.Contains(s.Done, auth.Type) {
			s.Done = append(s.Done, auth.Type)
		}
	}
	for _, flow := range flows {
		if failed == nil && containsAll(s.Done, flow) {
			c.dropUIA(ctx, sid)
			return s, nil
		}
	}
	c.storeUIA(ctx, sid, s)
	return nil, uiaAnswer(sid, s, flows, failed)
}

func containsAll(done, flow []string) bool {
	for _, stage := range flow {
		if !slices.Contains(done, stage) {
			return false
		}
	}
	return true
}

func uiaAnswer(sid string, s *uiaSession, flows [][]string, failed *merr.Error) error {
	list := make([]map[string]any, len(flows))
	for i, f := range flows {
		list[i] = map[string]any{"stages": f}
	}
	body := map[string]any{"session": sid, "flows": list, "params": map[string]any{}}
	if len(s.Done) > 0 {
		body["completed"] = s.Done
	}
	if failed == nil {
		return merr.UIA("", "", body)
	}
	return merr.UIA(failed.Code, failed.Msg, body)
}

// stage checks one stage.
func (c *Client) stage(r *http.Request, auth *uiaAuth, s *uiaSession, user id.User, flows [][]string) error {
	if !slices.ContainsFunc(flows, func(f []string) bool { return slices.Contains(f, auth.Type) }) {
		return merr.New(http.StatusUnauthorized, merr.CodeUnrecognized, "Unknown authentication type")
	}
	switch auth.Type {
	case stageDummy:
		return nil
	case stageToken:
		return c.tokenStage(r.Context(), auth, s)
	case stagePassword:
		return c.passwordStage(r, auth, user)
	}
	return merr.New(http.StatusUnauthorized, merr.CodeUnrecognized, "Unknown authentication type")
}

func (c *Client) passwordStage(r *http.Request, auth *uiaAuth, user id.User) error {
	if auth.Password == nil {
		return merr.MissingParam("password")
	}
	who := auth.Identifier
	if who == nil {
		who = &identifier{Type: idUser, User: auth.User}
	}
	claimed, err := who.user(user.Server())
	if err != nil {
		return err
	}
	if err := c.limitPassword(r.Context(), user); err != nil {
		return err
	}
	a, err := c.users.Account(r.Context(), user)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return err
	}
	ok, err := c.checkPassword(r.Context(), *auth.Password, a.PasswordHash)
	if err != nil {
		return err
	}
	if !ok || claimed != user && canonicalUser(claimed) != user {
		return merr.Forbidden("Invalid username or password")
	}
	return nil
}

func (c *Client) tokenStage(ctx context.Context, auth *uiaAuth, s *uiaSession) error {
	if auth.Token == "" {
		return merr.MissingParam("token")
	}
	valid, err := c.registrationTokenValid(ctx, auth.Token)
	if err != nil {
		return err
	}
	if !valid {
		return merr.New(http.StatusUnauthorized, merr.CodeUnauthorized, "Invalid registration token")
	}
	s.Token = auth.Token
	return nil
}

func uiaKey(sid string) string { return "hanse:uia:" + sid }

// loadUIA returns a session, or nil. Without Redis there are no sessions; the client starts again.
func (c *Client) loadUIA(ctx context.Context, sid string) *uiaSession {
	if sid == "" || len(sid) > 64 {
		return nil
	}
	signed, err := c.redis.Get(ctx, uiaKey(sid)).Bytes()
	if err != nil {
		if !errors.Is(err, redis.Nil) {
			c.log.WarnContext(ctx, "authentication session not read", "err", err)
		}
		return nil
	}
	raw, err := c.uia.Open(uiaKey(sid), signed, time.Now())
	if err != nil {
		c.log.WarnContext(ctx, "authentication session not believed", "err", err)
		return nil
	}
	s := new(uiaSession)
	if err := json.Unmarshal(raw, s); err != nil {
		c.log.WarnContext(ctx, "authentication session not readable", "err", err)
		return nil
	}
	return s
}

func (c *Client) storeUIA(ctx context.Context, sid string, s *uiaSession) {
	raw, err := json.Marshal(s)
	if err == nil {
		signed := c.uia.Sign(uiaKey(sid), raw, time.Now().Add(c.cfg.UIATimeout))
		err = c.redis.Set(ctx, uiaKey(sid), signed, c.cfg.UIATimeout).Err()
	}
	if err != nil {
		c.log.WarnContext(ctx, "authentication session not stored", "err", err)
	}
}

func (c *Client) dropUIA(ctx context.Context, sid string) {
	if err := c.redis.Del(ctx, uiaKey(sid)).Err(); err != nil {
		c.log.WarnContext(ctx, "authentication session not dropped", "err", err)
	}
}

// confirm asks who makes the request for their password, unless it is an application service (application service
// API, "Device management" and "Cross-signing").
func (c *Client) confirm(r *http.Request, auth json.RawMessage) error {
	i := me(r)
	if i.Appservice != nil {
		return nil
	}
	_, err := c.interactive(r, auth, i.User, [][]string{{stagePassword}})
	return err
}
