package uia

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
	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/password"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

// The stages of user-interactive authentication that this server knows (client-server API, "Authentication types").
const (
	Password          = "m.login.password"
	Dummy             = "m.login.dummy"
	RegistrationToken = "m.login.registration_token"
)

// Deps are what authentication needs beyond the core.
type Deps struct {
	Redis     redis.UniversalClient
	Key       *mac.Key // signs sessions
	Passwords *password.Hasher
	Tokens    map[string]int64 // registration tokens, with the number of uses each has
	Timeout   time.Duration    // after which a session that is not used ends
}

// UIA authenticates requests.
type UIA struct {
	*core.Core
	redis   redis.UniversalClient
	key     *mac.Key
	hasher  *password.Hasher
	tokens  map[string]int64
	timeout time.Duration
}

// New makes a UIA.
func New(c *core.Core, d Deps) *UIA {
	return &UIA{Core: c, redis: d.Redis, key: d.Key, hasher: d.Passwords, tokens: d.Tokens, timeout: d.Timeout}
}

// Session is what is kept between the requests of one authentication. It lives in Redis, signed, as it says which stages
// are done: if it is lost, the client starts again.
type Session struct {
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
	auth   authData
	digest []byte
	again  bool // the request was let through before
}

// Again reports whether the request was let through before, and comes again as its answer may have been lost.
func (s *Session) Again() bool { return s.again }

// authData is the auth member of a request.
type authData struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Identifier *Identifier `json:"identifier"`
	User       string      `json:"user"` // deprecated form of the identifier
	Password   *string     `json:"password"`
	Token      string      `json:"token"`
}

// Begin finds or makes the session of a request with user-interactive authentication (client-server API,
// "User-Interactive Authentication API"), and decodes its body. user is who makes the request, "" before there is an
// account.
func (c *UIA) Begin(r *http.Request, user id.User, body any) (*Session, error) {
	raw, err := httpx.JSONBody(r)
	if err != nil {
		return nil, err
	}
	if err := httpx.Unmarshal(raw, body); err != nil {
		return nil, err
	}
	rest, err := core.Members(raw)
	if err != nil {
		return nil, err
	}
	var auth authData
	if a := rest["auth"]; len(a) > 0 && string(a) != "null" {
		if err := httpx.Unmarshal(a, &auth); err != nil {
			return nil, err
		}
	}
	delete(rest, "auth")
	if raw, err = json.Marshal(rest); err != nil {
		return nil, err
	}
	digest := c.key.Digest(raw)
	s, lost := c.load(r.Context(), auth.Session)
	operation := r.Method + " " + r.URL.Path
	if s == nil || s.Operation != operation || s.User != user || s.Finished != nil && !bytes.Equal(s.Finished, digest) {
		// A session that is unknown, has expired, or was made for something else: start again. What the request shows
		// counts for the new one, so that flows of one stage need one request. A registration may have been done by
		// the session that is not known any more: who registers has to say again that this is wanted.
		if user == "" && auth.Session != "" && !lost {
			auth.Type = ""
		}
		s = &Session{Operation: operation, User: user, id: rand.Text()}
	}
	s.auth, s.digest, s.again = auth, digest, s.Finished != nil
	return s, nil
}

// Finish takes the stage that a request shows. It returns nil when all stages of a flow are done, else the 401 that
// asks for more.
func (c *UIA) Finish(r *http.Request, s *Session, flows [][]string) error {
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
	c.store(ctx, s)
	if done {
		return nil
	}
	return challenge(s, flows, failed)
}

func containsAll(done, flow []string) bool {
	for _, stage := range flow {
		if !slices.Contains(done, stage) {
			return false
		}
	}
	return true
}

func challenge(s *Session, flows [][]string, failed *merr.Error) error {
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
func (c *UIA) stage(r *http.Request, auth *authData, s *Session, flows [][]string) error {
	if !slices.ContainsFunc(flows, func(f []string) bool { return slices.Contains(f, auth.Type) }) {
		return merr.New(http.StatusUnauthorized, merr.CodeUnrecognized, "Unknown authentication type")
	}
	switch auth.Type {
	case Dummy:
		return nil
	case RegistrationToken:
		return c.tokenStage(r.Context(), auth, s)
	case Password:
		return c.passwordStage(r, auth, s.User)
	}
	return merr.New(http.StatusUnauthorized, merr.CodeUnrecognized, "Unknown authentication type")
}

func (c *UIA) passwordStage(r *http.Request, auth *authData, user id.User) error {
	if auth.Password == nil {
		return merr.MissingParam("password")
	}
	who := auth.Identifier
	if who == nil {
		who = &Identifier{Type: IDUser, User: auth.User}
	}
	claimed, err := who.UserID(user.Server())
	if err != nil {
		return err
	}
	if err := c.LimitPassword(r.Context(), user); err != nil {
		return err
	}
	a, err := c.Users.Account(r.Context(), user)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return err
	}
	ok, err := c.CheckPassword(r.Context(), *auth.Password, a.PasswordHash)
	if err != nil {
		return err
	}
	if !ok || claimed != user && Canonical(claimed) != user {
		return merr.Forbidden("Invalid username or password")
	}
	return nil
}

func (c *UIA) tokenStage(ctx context.Context, auth *authData, s *Session) error {
	if auth.Token == "" {
		return merr.MissingParam("token")
	}
	valid, err := c.TokenValid(ctx, auth.Token)
	if err != nil {
		return err
	}
	if !valid {
		// This session may have used it up: who knows the account's password gets the answer again.
		if valid, err = c.Users.AccountExists(ctx, s.Account); err != nil {
			return err
		}
	}
	if !valid {
		return merr.New(http.StatusUnauthorized, merr.CodeUnauthorized, "Invalid registration token")
	}
	s.Token = auth.Token
	return nil
}

func redisKey(sid string) string { return "hanse:uia:" + sid }

// load returns a session, or nil. Without Redis sessions are lost; the client starts again.
func (c *UIA) load(ctx context.Context, sid string) (s *Session, lost bool) {
	if sid == "" || len(sid) > 64 {
		return nil, false
	}
	signed, err := c.redis.Get(ctx, redisKey(sid)).Bytes()
	if err != nil {
		if lost = !errors.Is(err, redis.Nil); lost {
			c.Log.WarnContext(ctx, "authentication session could not be read", "err", err)
		}
		return nil, lost
	}
	raw, err := c.key.Open(redisKey(sid), signed, time.Now())
	if err != nil {
		c.Log.WarnContext(ctx, "authentication session has a bad signature", "err", err)
		return nil, false
	}
	s = &Session{id: sid}
	if err := json.Unmarshal(raw, s); err != nil {
		c.Log.WarnContext(ctx, "authentication session has a bad form", "err", err)
		return nil, false
	}
	return s, false
}

func (c *UIA) store(ctx context.Context, s *Session) {
	raw, err := json.Marshal(s)
	if err == nil {
		signed := c.key.Sign(redisKey(s.id), raw, time.Now().Add(c.timeout))
		err = c.redis.Set(ctx, redisKey(s.id), signed, c.timeout).Err()
	}
	if err != nil {
		c.Log.WarnContext(ctx, "authentication session could not be stored", "err", err)
	}
}

// Confirm asks who makes the request for their password, unless it is an application service (application service
// API, "Device management" and "Cross-signing").
func (c *UIA) Confirm(r *http.Request, s *Session) error {
	if core.Me(r).Appservice != nil {
		return nil
	}
	return c.Finish(r, s, [][]string{{Password}})
}

// TokenValid reports whether a token is configured and has uses left.
func (c *UIA) TokenValid(ctx context.Context, token string) (bool, error) {
	allowed, ok := c.tokens[token]
	if !ok || allowed == 0 {
		return ok, nil
	}
	used, err := c.Users.RegistrationTokenUses(ctx, token)
	return used < allowed, err
}
