package client

import (
	"bytes"
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
	// Account and Device are what a registration makes. They are chosen when the session begins, so that a request that
	// comes again makes the same.
	Account id.User   `json:"account,omitempty"`
	Device  id.Device `json:"device,omitempty"`
	// Finished is the digest of the request that was let through. The session goes on letting that one through, as its
	// answer may have been lost.
	Finished []byte `json:"finished,omitempty"`

	id     string
	auth   uiaAuth
	digest []byte
	again  bool // the request was let through before
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

// beginUIA finds or makes the session of a request with user-interactive authentication (client-server API,
// "User-Interactive Authentication API"), and decodes its body. user is who makes the request, "" before there is an
// account.
func (c *Client) beginUIA(r *http.Request, user id.User, body any) (*uiaSession, error) {
	raw, err := httpx.JSONBody(r)
	if err != nil {
		return nil, err
	}
	if err := httpx.Unmarshal(raw, body); err != nil {
		return nil, err
	}
	rest, err := members(raw)
	if err != nil {
		return nil, err
	}
	var auth uiaAuth
	if a := rest["auth"]; len(a) > 0 && string(a) != "null" {
		if err := httpx.Unmarshal(a, &auth); err != nil {
			return nil, err
		}
	}
	delete(rest, "auth")
	if raw, err = json.Marshal(rest); err != nil {
		return nil, err
	}
	digest := c.uia.Digest(raw)
	s, lost := c.loadUIA(r.Context(), auth.Session)
	operation := r.Method + " " + r.URL.Path
	if s == nil || s.Operation != operation || s.User != user || s.Finished != nil && !bytes.Equal(s.Finished, digest) {
		// A session that is unknown, has expired, or was made for something else: start again. What the request shows
		// counts for the new one, so that flows of one stage need one request. A registration may have been done by
		// the session that is not known any more: who registers has to say again that this is wanted.
		if user == "" && auth.Session != "" && !lost {
			auth.Type = ""
		}
		s = &uiaSession{Operation: operation, User: user, id: rand.Text()}
	}
	s.auth, s.digest, s.again = auth, digest, s.Finished != nil
	return s, nil
}

// finishUIA takes the stage that a request shows. It returns nil when all stages of a flow are done, else the 401 that
// asks for more.
func (c *Client) finishUIA(r *http.Request, s *uiaSession, flows [][]string) error {
	ctx := r.Context()
	var failed *merr.Error
	// A stage that is shown again has the result that it had: what was right then, such as a token with one use, need
	// not be right still.
	if s.auth.Type != "" && !slices.Contains(s.Done, s.auth.Type) {
		if err := c.stage(r, &s.auth, s, flows); err != nil {
			var e *merr.Error
			if !errors.As(err, &e) || e.Status >= http.StatusInternalServerError || e.Code == merr.CodeLimitExceeded {
				return err
			}
			failed = e
		} else {
			s.Done = append(s.Done, s.auth.Type)
		}
	}
	done := failed == nil && slices.ContainsFunc(flows, func(flow []string) bool { return containsAll(s.Done, flow) })
	if done {
		s.Finished = s.digest
	}
	c.storeUIA(ctx, s)
	if done {
		return nil
	}
	return uiaAnswer(s, flows, failed)
}

func containsAll(done, flow []string) bool {
	for _, stage := range flow {
		if !slices.Contains(done, stage) {
			return false
		}
	}
	return true
}

func uiaAnswer(s *uiaSession, flows [][]string, failed *merr.Error) error {
	list := make([]map[string]any, len(flows))
	for i, f := range flows {
		list[i] = map[string]any{"stages": f}
	}
	body := map[string]any{"session": s.id, "flows": list, "params": map[string]any{}, "completed": append([]string{}, s.Done...)}
	if failed == nil {
		return merr.UIA("", "", body)
	}
	return merr.UIA(failed.Code, failed.Msg, body)
}

// stage checks one stage.
func (c *Client) stage(r *http.Request, auth *uiaAuth, s *uiaSession, flows [][]string) error {
	if !slices.ContainsFunc(flows, func(f []string) bool { return slices.Contains(f, auth.Type) }) {
		return merr.New(http.StatusUnauthorized, merr.CodeUnrecognized, "Unknown authentication type")
	}
	switch auth.Type {
	case stageDummy:
		return nil
	case stageToken:
		return c.tokenStage(r.Context(), auth, s)
	case stagePassword:
		return c.passwordStage(r, auth, s.User)
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
		// This session may have used it up: who knows the account's password gets the answer again.
		if valid, err = c.users.AccountExists(ctx, s.Account); err != nil {
			return err
		}
	}
	if !valid {
		return merr.New(http.StatusUnauthorized, merr.CodeUnauthorized, "Invalid registration token")
	}
	s.Token = auth.Token
	return nil
}

func uiaKey(sid string) string { return "hanse:uia:" + sid }

// loadUIA returns a session, or nil. Without Redis sessions are lost; the client starts again.
func (c *Client) loadUIA(ctx context.Context, sid string) (s *uiaSession, lost bool) {
	if sid == "" || len(sid) > 64 {
		return nil, false
	}
	signed, err := c.redis.Get(ctx, uiaKey(sid)).Bytes()
	if err != nil {
		if lost = !errors.Is(err, redis.Nil); lost {
			c.log.WarnContext(ctx, "authentication session could not be read", "err", err)
		}
		return nil, lost
	}
	raw, err := c.uia.Open(uiaKey(sid), signed, time.Now())
	if err != nil {
		c.log.WarnContext(ctx, "authentication session has a bad signature", "err", err)
		return nil, false
	}
	s = &uiaSession{id: sid}
	if err := json.Unmarshal(raw, s); err != nil {
		c.log.WarnContext(ctx, "authentication session has a bad form", "err", err)
		return nil, false
	}
	return s, false
}

func (c *Client) storeUIA(ctx context.Context, s *uiaSession) {
	raw, err := json.Marshal(s)
	if err == nil {
		signed := c.uia.Sign(uiaKey(s.id), raw, time.Now().Add(c.cfg.UIATimeout))
		err = c.redis.Set(ctx, uiaKey(s.id), signed, c.cfg.UIATimeout).Err()
	}
	if err != nil {
		c.log.WarnContext(ctx, "authentication session could not be stored", "err", err)
	}
}

// confirm asks who makes the request for their password, unless it is an application service (application service
// API, "Device management" and "Cross-signing").
func (c *Client) confirm(r *http.Request, s *uiaSession) error {
	if me(r).Appservice != nil {
		return nil
	}
	return c.finishUIA(r, s, [][]string{{stagePassword}})
}
