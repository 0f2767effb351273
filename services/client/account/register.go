package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"hanse/pkg/appservice"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/password"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
	"hanse/services/client/uia"
)

func (c *Account) registerRoutes(rt *core.Routes) {
	rt.Open.Handle("POST /register", c.register)
	rt.Open.Handle("GET /register/available", c.registerAvailable)
	rt.OpenV1.Handle("GET /register/{stage}/validity", c.registrationTokenValidity)
	rt.Root.Group("/_matrix/client/unstable").Handle("GET /register/{stage}/validity", c.registrationTokenValidity)
	rt.Root.Handle("GET /_synapse/admin/v1/register", c.sharedSecretNonce)
	rt.Root.Handle("POST /_synapse/admin/v1/register", c.sharedSecretRegister)
}

type registerRequest struct {
	Type         string  `json:"type"`
	Username     *string `json:"username"`
	User         string  `json:"user"` // what old bridges send
	Password     *string `json:"password"`
	DeviceID     string  `json:"device_id"`
	DeviceName   string  `json:"initial_device_display_name"`
	InhibitLogin bool    `json:"inhibit_login"`
	RefreshToken bool    `json:"refresh_token"`
}

// register answers POST /register (client-server API, "Account registration").
func (c *Account) register(w http.ResponseWriter, r *http.Request) error {
	if err := c.allowAddress(r, limitRegister); err != nil {
		return err
	}
	kind := r.URL.Query().Get("kind")
	var q registerRequest
	s, err := c.uia.Begin(r, "", &q)
	if err != nil {
		return err
	}
	if err := CheckDevice(q.DeviceID, q.DeviceName); err != nil {
		return err
	}
	switch {
	case q.Type == loginAppservice:
		return c.registerByAppservice(w, r, &q)
	case kind == "guest":
		return c.registerGuest(w, r, &q)
	case kind != "" && kind != "user":
		return merr.InvalidParam("Unknown kind of account: " + kind)
	case c.registrationClosed():
		return errRegistrationClosed()
	}
	return c.registerUser(w, r, &q, s)
}

func (c *Account) registerUser(w http.ResponseWriter, r *http.Request, q *registerRequest, s *uia.Session) error {
	ctx := r.Context()
	// These checks come before authentication ("Homeservers MUST perform the relevant checks").
	if err := c.chooseAccount(ctx, c.Server(r), q, s); err != nil {
		return err
	}
	if q.Password != nil {
		if err := checkNewPassword(*q.Password); err != nil {
			return err
		}
	}
	flow := []string{uia.Dummy}
	if len(c.registration.Tokens) > 0 {
		flow = []string{uia.RegistrationToken}
	}
	if err := c.uia.Finish(r, s, [][]string{flow}); err != nil {
		return err
	}
	if q.Password == nil {
		return merr.MissingParam("password")
	}
	if s.Again() {
		if done, err := c.registeredBefore(ctx, s.Account, *q.Password); err != nil {
			return err
		} else if done {
			return c.answerRegistration(w, r, q, s.Account)
		}
	}
	hash, err := c.hasher.Hash(ctx, *q.Password)
	if err != nil {
		return err
	}
	created, err := c.createWithToken(ctx, s.Token, userdb.NewAccount{User: s.Account, PasswordHash: hash})
	if err != nil {
		return err
	}
	if !created { // by the same request, which came twice at once, or by somebody else
		if done, err := c.registeredBefore(ctx, s.Account, *q.Password); err != nil {
			return err
		} else if !done {
			return merr.UserInUse()
		}
	}
	return c.answerRegistration(w, r, q, s.Account)
}

// chooseAccount settles which account and device a session registers, when it begins or the client changes its mind.
func (c *Account) chooseAccount(ctx context.Context, server id.Server, q *registerRequest, s *uia.Session) error {
	same := q.Username == nil || *q.Username == "" || id.NewUser(uia.LowerASCII(*q.Username), server) == s.Account
	if !same || s.Account.Server() != server {
		user, err := c.newUserID(ctx, server, q.Username, nil)
		if err != nil {
			return err
		}
		s.Account, s.Device = user, newDeviceID()
	}
	if q.DeviceID == "" {
		q.DeviceID = string(s.Device)
	}
	return nil
}

// registeredBefore says whether a session has made its account already: its password is the one in the request.
func (c *Account) registeredBefore(ctx context.Context, user id.User, pw string) (bool, error) {
	a, err := c.Users.Account(ctx, user)
	if errors.Is(err, userdb.ErrNotFound) {
		return false, nil
	}
	if err != nil || a.Deactivated {
		return false, err
	}
	if err := c.uia.LimitPassword(ctx, user); err != nil {
		return false, err
	}
	return c.uia.CheckPassword(ctx, pw, a.PasswordHash)
}

// createWithToken creates an account that costs a use of a registration token, if there is one.
func (c *Account) createWithToken(ctx context.Context, token string, a userdb.NewAccount) (created bool, err error) {
	if token == "" {
		return c.createAccount(ctx, a)
	}
	ok, err := c.Users.UseRegistrationToken(ctx, token, c.registration.Tokens[token])
	if err != nil {
		return false, err
	}
	if !ok {
		if exists, err := c.Users.AccountExists(ctx, a.User); err != nil || exists {
			return false, err
		}
		return false, merr.Forbidden("The registration token was used as often as it may be")
	}
	if created, err = c.createAccount(ctx, a); err == nil && !created {
		err = c.Users.ReturnRegistrationToken(ctx, token)
	}
	return created, err
}

// newUserID checks the wanted name, or makes one up, for a user of an application service or, if that is nil, of
// nobody's.
func (c *Account) newUserID(ctx context.Context, server id.Server, name *string, s *appservice.Service) (id.User, error) {
	if name == nil || *name == "" {
		if s != nil {
			return "", merr.InvalidUsername("A username is needed")
		}
		return id.NewUser(strings.ToLower(rand.Text()[:12]), server), nil
	}
	local := uia.LowerASCII(*name)
	if err := id.ParseStrictLocalpart(local); err != nil {
		return "", merr.InvalidUsername("User ID can only contain characters a-z, 0-9, or '=_-./+'")
	}
	user, err := id.ParseUser(string(id.NewUser(local, server)))
	if err != nil {
		return "", merr.InvalidUsername("User ID is too long")
	}
	if s != nil && !s.MayActAs(user) {
		return "", merr.Exclusive("The user is not in a namespace of the application service")
	}
	if owner := c.apps.OwnerOfUser(user); owner != nil && (s == nil || owner.ID != s.ID) {
		return "", merr.Exclusive("This user ID is reserved by an application service")
	}
	if local[0] == '_' && s == nil {
		return "", merr.InvalidUsername("User ID may not begin with _")
	}
	taken, err := c.Users.AccountExists(ctx, user)
	if err != nil {
		return "", err
	}
	if taken {
		return "", merr.UserInUse()
	}
	return user, nil
}

func checkNewPassword(pw string) error {
	if pw == "" {
		return merr.InvalidParam("Invalid password")
	}
	if len(pw) > password.MaxLen {
		return merr.InvalidParam("Password is too long")
	}
	return nil
}

// finishRegistration creates the account and, unless the client does not want it, a session.
func (c *Account) finishRegistration(w http.ResponseWriter, r *http.Request, q *registerRequest, a userdb.NewAccount) error {
	created, err := c.createAccount(r.Context(), a)
	if err != nil {
		return err
	}
	if !created {
		return merr.UserInUse()
	}
	return c.answerRegistration(w, r, q, a.User)
}

func (c *Account) createAccount(ctx context.Context, a userdb.NewAccount) (created bool, err error) {
	a.CreatedTS = userdb.Millis(time.Now())
	if a.Displayname == "" && !a.Guest {
		a.Displayname = a.User.Localpart()
	}
	return c.Users.CreateAccount(ctx, a)
}

func (c *Account) answerRegistration(w http.ResponseWriter, r *http.Request, q *registerRequest, user id.User) error {
	if q.InhibitLogin {
		return httpx.OK(w, &sessionAnswer{UserID: user, HomeServer: user.Server()})
	}
	answer, err := c.newSession(r.Context(), user, id.Device(q.DeviceID), q.DeviceName, q.RefreshToken)
	if err != nil {
		return err
	}
	return httpx.OK(w, answer)
}

// registerGuest registers a guest: the server picks the device, and ignores the rest but the device's name.
func (c *Account) registerGuest(w http.ResponseWriter, r *http.Request, q *registerRequest) error {
	if !c.registration.Guests {
		return merr.Forbidden("Guest access is disabled")
	}
	user, err := c.newUserID(r.Context(), c.Server(r), nil, nil)
	if err != nil {
		return err
	}
	return c.finishRegistration(w, r, &registerRequest{DeviceName: q.DeviceName}, userdb.NewAccount{User: user, Guest: true})
}

// appserviceOf returns the application service whose token the request carries.
func (c *Account) appserviceOf(r *http.Request) (*appservice.Service, error) {
	token, err := session.Token(r)
	if err != nil {
		return nil, err
	}
	s := c.apps.ByToken(token)
	if s == nil {
		return nil, merr.UnknownToken(false)
	}
	return s, nil
}

// allowAddress takes one action from the budget of an address. A service without rate limits has none here either.
func (c *Account) allowAddress(r *http.Request, kind string) error {
	if token, err := session.Token(r); err == nil {
		if s := c.apps.ByToken(token); s != nil && !s.RateLimited {
			return nil
		}
	}
	return c.Allow(r.Context(), kind, httpx.ClientKey(r))
}

func (c *Account) registerByAppservice(w http.ResponseWriter, r *http.Request, q *registerRequest) error {
	s, err := c.appserviceOf(r)
	if err != nil {
		return err
	}
	name := q.Username
	if name == nil {
		name = &q.User
	}
	user, err := c.newUserID(r.Context(), s.Server, name, s)
	if err != nil {
		return err
	}
	return c.finishRegistration(w, r, q, userdb.NewAccount{User: user, Appservice: s.ID})
}

func (c *Account) registerAvailable(w http.ResponseWriter, r *http.Request) error {
	if err := c.Allow(r.Context(), limitRegister, httpx.ClientKey(r)); err != nil {
		return err
	}
	if c.registrationClosed() {
		return errRegistrationClosed()
	}
	q := r.URL.Query()
	if !q.Has("username") {
		return merr.MissingParam("username")
	}
	name := q.Get("username")
	if name == "" {
		return merr.InvalidUsername("User ID is empty")
	}
	if _, err := c.newUserID(r.Context(), c.Server(r), &name, nil); err != nil {
		return err
	}
	return httpx.OK(w, map[string]bool{"available": true})
}

// registrationTokenValidity answers GET /_matrix/client/v1/register/m.login.registration_token/validity.
func (c *Account) registrationTokenValidity(w http.ResponseWriter, r *http.Request) error {
	if core.Param(r, "stage") != uia.RegistrationToken {
		return merr.Unrecognized(http.StatusNotFound)
	}
	if err := c.Allow(r.Context(), limitRegister, httpx.ClientKey(r)); err != nil {
		return err
	}
	token := r.URL.Query().Get("token")
	if token == "" {
		return merr.MissingParam("token")
	}
	if c.registrationClosed() {
		return errRegistrationClosed()
	}
	valid, err := c.uia.TokenValid(r.Context(), token)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]bool{"valid": valid})
}

func (c *Account) registrationClosed() bool {
	return !c.registration.Enabled && len(c.registration.Tokens) == 0
}

func errRegistrationClosed() error { return merr.Forbidden("Registration has been disabled") }

// nonceLife is how long a nonce of the shared secret registration is good for.
const nonceLife = time.Minute

func nonceKey(nonce string) string { return "hanse:register:" + nonce }

// sharedSecretNonce and sharedSecretRegister are registration as Synapse has it for its tools: the request carries an
// HMAC-SHA1 under the shared secret.
func (c *Account) sharedSecretNonce(w http.ResponseWriter, r *http.Request) error {
	if c.registration.SharedSecret == "" {
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "Shared secret registration is not enabled")
	}
	nonce := hex.EncodeToString([]byte(rand.Text()))
	signed := c.nonces.Sign(nonceKey(nonce), nil, time.Now().Add(nonceLife))
	if err := c.redis.Set(r.Context(), nonceKey(nonce), signed, nonceLife).Err(); err != nil {
		return merr.Unavailable("Try again in a moment").WithCause(err)
	}
	return httpx.OK(w, map[string]string{"nonce": nonce})
}

type sharedSecretRequest struct {
	Nonce        *string         `json:"nonce"`
	Username     *string         `json:"username"`
	Password     *string         `json:"password"`
	Displayname  string          `json:"displayname"`
	Admin        json.RawMessage `json:"admin"`
	UserType     string          `json:"user_type"`
	Mac          *string         `json:"mac"`
	InhibitLogin bool            `json:"inhibit_login"`
}

func (c *Account) sharedSecretRegister(w http.ResponseWriter, r *http.Request) error {
	if c.registration.SharedSecret == "" {
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "Shared secret registration is not enabled")
	}
	var q sharedSecretRequest
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	admin, err := q.check()
	if err != nil {
		return err
	}
	if err := c.useNonce(r.Context(), *q.Nonce); err != nil {
		return err
	}
	if !q.macValid(c.registration.SharedSecret, admin) {
		return merr.Forbidden("HMAC incorrect")
	}
	user, err := c.newUserID(r.Context(), c.Server(r), q.Username, nil)
	if err != nil {
		return err
	}
	hash, err := c.hasher.Hash(r.Context(), *q.Password)
	if err != nil {
		return err
	}
	return c.finishRegistration(w, r, &registerRequest{InhibitLogin: q.InhibitLogin},
		userdb.NewAccount{User: user, PasswordHash: hash, Admin: admin, Displayname: q.Displayname})
}

func (c *Account) useNonce(ctx context.Context, nonce string) error {
	signed, err := c.redis.GetDel(ctx, nonceKey(nonce)).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return merr.Unavailable("Try again in a moment").WithCause(err)
	}
	if err == nil {
		_, err = c.nonces.Open(nonceKey(nonce), signed, time.Now())
	}
	if err != nil {
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "unrecognised nonce").WithCause(err)
	}
	return nil
}

func (q *sharedSecretRequest) check() (admin bool, err error) {
	for _, m := range []struct {
		name  string
		value *string
	}{{"nonce", q.Nonce}, {"username", q.Username}, {"password", q.Password}, {"mac", q.Mac}} {
		if m.value == nil {
			return false, merr.BadJSON(m.name + " must be specified")
		}
		if strings.ContainsRune(*m.value, 0) {
			return false, merr.BadJSON("Invalid " + m.name)
		}
	}
	if len(*q.Username) > 512 || *q.Username == "" {
		return false, merr.BadJSON("Invalid username")
	}
	if len(*q.Password) > password.MaxLen || *q.Password == "" {
		return false, merr.BadJSON("Invalid password")
	}
	if q.UserType != "" && q.UserType != "bot" && q.UserType != "support" {
		return false, merr.BadJSON("Invalid user type")
	}
	// Synapse takes anything that Python finds true.
	switch string(q.Admin) {
	case "", "null", "false", "0", `""`:
		return false, nil
	}
	if ok, err := strconv.ParseBool(string(q.Admin)); err == nil {
		return ok, nil
	}
	return true, nil
}

func (q *sharedSecretRequest) macValid(secret string, admin bool) bool {
	m := hmac.New(sha1.New, []byte(secret))
	parts := []string{*q.Nonce, *q.Username, *q.Password, "notadmin"}
	if admin {
		parts[3] = "admin"
	}
	if q.UserType != "" {
		parts = append(parts, q.UserType)
	}
	m.Write([]byte(strings.Join(parts, "\x00")))
	given, err := hex.DecodeString(strings.ToLower(*q.Mac))
	return err == nil && hmac.Equal(given, m.Sum(nil))
}
