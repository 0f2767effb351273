package client

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/password"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
)

// The kinds of rate limits that logging in and registering take from.
const (
	limitLogin     = "login"      // by address
	limitLoginUser = "login_user" // by account
	limitRegister  = "register"
)

const (
	loginPassword   = "m.login.password"
	loginAppservice = "m.login.application_service"
)

func (c *Client) loginRoutes(rt *routes) {
	rt.open.Handle("GET /login", c.loginFlows)
	rt.open.Handle("POST /login", c.login)
	rt.open.Handle("POST /refresh", c.refresh)
	rt.openV1.Handle("POST /refresh", c.refresh)
	rt.guest.Handle("POST /logout", c.logout)
	rt.guest.Handle("POST /logout/all", c.logoutAll)
	rt.guest.Handle("GET /account/whoami", c.whoami)
}

func (c *Client) loginFlows(w http.ResponseWriter, _ *http.Request) error {
	flows := []map[string]any{{"type": loginPassword}}
	if len(c.apps.All()) > 0 {
		flows = append(flows, map[string]any{"type": loginAppservice})
	}
	return httpx.OK(w, map[string]any{"flows": flows})
}

// The identifier types (client-server API, "Identifier types").
const (
	idUser       = "m.id.user"
	idThirdParty = "m.id.thirdparty"
	idPhone      = "m.id.phone"
)

// identifier says whom a login is for.
type identifier struct {
	Type    string `json:"type"`
	User    string `json:"user"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
	Country string `json:"country"`
	Phone   string `json:"phone"`
}

// user returns the user id; a localpart is one of server's.
func (i *identifier) user(server id.Server) (id.User, error) {
	switch i.Type {
	case idUser:
	case idThirdParty:
		if i.Medium == "" || i.Address == "" {
			return "", merr.MissingParam("identifier.medium or identifier.address")
		}
		return "", merr.Forbidden("Invalid username or password") // nobody has third-party identifiers here
	case idPhone:
		if i.Country == "" || i.Phone == "" {
			return "", merr.MissingParam("identifier.country or identifier.phone")
		}
		return "", merr.Forbidden("Invalid username or password")
	case "":
		return "", merr.MissingParam("identifier.type")
	default:
		return "", merr.New(http.StatusBadRequest, merr.CodeUnknown, "Unknown login identifier type")
	}
	if i.User == "" {
		return "", merr.MissingParam("identifier.user")
	}
	u, err := typedUser(i.User, server)
	if err != nil {
		return "", merr.Forbidden("Invalid username or password").WithCause(err)
	}
	return u, nil
}

// typedUser returns the user id that a person means who logs in at a server: by a localpart, or by an id, which may lack
// the @ or the port of the server's name and may have spaces around it.
func typedUser(text string, server id.Server) (id.User, error) {
	name := strings.TrimSpace(text)
	if !strings.HasPrefix(name, "@") && strings.Contains(name, ":") {
		name = "@" + name
	}
	if !strings.HasPrefix(name, "@") {
		return id.ParseUser(string(id.NewUser(name, server)))
	}
	u, err := id.ParseUser(name)
	if err != nil {
		return "", err
	}
	host, _ := server.HostPort()
	if typed := string(u.Server()); strings.EqualFold(typed, string(server)) || strings.EqualFold(typed, host) {
		return id.NewUser(u.Localpart(), server), nil
	}
	return u, nil
}

type loginRequest struct {
	Type         string      `json:"type"`
	Identifier   *identifier `json:"identifier"`
	User         string      `json:"user"`    // deprecated
	Medium       string      `json:"medium"`  // deprecated
	Address      string      `json:"address"` // deprecated
	Password     *string     `json:"password"`
	DeviceID     string      `json:"device_id"`
	DeviceName   string      `json:"initial_device_display_name"`
	RefreshToken bool        `json:"refresh_token"`
}

// who returns the identifier, given in the present way or in the deprecated one.
func (q *loginRequest) who() *identifier {
	switch {
	case q.Identifier != nil:
		return q.Identifier
	case q.User != "":
		return &identifier{Type: idUser, User: q.User}
	case q.Medium != "" || q.Address != "":
		return &identifier{Type: idThirdParty, Medium: q.Medium, Address: q.Address}
	}
	return nil
}

// login answers POST /login (client-server API, "Login").
func (c *Client) login(w http.ResponseWriter, r *http.Request) error {
	if err := c.limits.Allow(r.Context(), limitLogin, httpx.ClientKey(r)); err != nil {
		return err
	}
	var q loginRequest
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if err := checkDevice(q.DeviceID, q.DeviceName); err != nil {
		return err
	}
	var user id.User
	var err error
	switch q.Type {
	case loginPassword:
		user, err = c.loginByPassword(r, &q)
	case loginAppservice:
		user, err = c.loginByAppservice(r, &q)
	case "":
		return merr.MissingParam("type")
	default:
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "Unknown login type "+q.Type)
	}
	if err != nil {
		return err
	}
	answer, err := c.newSession(r.Context(), user, id.Device(q.DeviceID), q.DeviceName, q.RefreshToken)
	if err != nil {
		return err
	}
	if c.cfg.PublicBaseURL != "" {
		answer.WellKnown = map[string]any{"m.homeserver": map[string]string{"base_url": c.cfg.PublicBaseURL}}
	}
	return httpx.OK(w, answer)
}

func (c *Client) loginByPassword(r *http.Request, q *loginRequest) (id.User, error) {
	who := q.who()
	if who == nil {
		return "", merr.MissingParam("identifier")
	}
	if q.Password == nil {
		return "", merr.MissingParam("password")
	}
	user, err := who.user(c.server(r))
	if err != nil {
		return "", err
	}
	ctx := r.Context()
	if err := c.limitPassword(ctx, user); err != nil {
		return "", err
	}
	user, a, err := c.findAccount(ctx, user)
	if err != nil {
		return "", err
	}
	hash := ""
	if a != nil {
		hash = a.PasswordHash
	}
	ok, err := c.checkPassword(ctx, *q.Password, hash)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", merr.Forbidden("Invalid username or password")
	}
	if a.Deactivated {
		return "", merr.UserDeactivated()
	}
	if c.hasher.NeedsRehash(hash) {
		c.rehash(ctx, user, *q.Password)
	}
	return user, nil
}

// limitPassword takes one guess at a user's password. All ways to write an account's name share a budget.
func (c *Client) limitPassword(ctx context.Context, user id.User) error {
	return c.limits.Allow(ctx, limitLoginUser, string(canonicalUser(user)))
}

// canonicalUser is a user id with a localpart in lower case. Only ASCII letters have a case here: U+212A and U+0130,
// which Unicode folds into k and i, are no letters of a user id.
func canonicalUser(user id.User) id.User {
	return id.NewUser(lowerASCII(user.Localpart()), user.Server())
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

type account struct {
	PasswordHash string
	Deactivated  bool
}

// findAccount returns the account of a user, also if the case of the localpart is not right; nil if there is none.
func (c *Client) findAccount(ctx context.Context, user id.User) (id.User, *account, error) {
	if !c.isLocal(user) {
		return user, nil, nil
	}
	lower := canonicalUser(user)
	for _, u := range []id.User{user, lower} {
		a, err := c.users.Account(ctx, u)
		if err == nil {
			return u, &account{a.PasswordHash, a.Deactivated}, nil
		}
		if !errors.Is(err, userdb.ErrNotFound) {
			return u, nil, err
		}
		if lower == user {
			break
		}
	}
	return user, nil, nil
}

// checkPassword takes as long for no hash as for a wrong password.
func (c *Client) checkPassword(ctx context.Context, pw, hash string) (bool, error) {
	ok, err := c.hasher.Check(ctx, pw, hash)
	if errors.Is(err, password.ErrTooLong) {
		return false, nil
	}
	return ok, err
}

// rehash stores the password at the present cost. If that fails, the next login tries again.
func (c *Client) rehash(ctx context.Context, user id.User, pw string) {
	hash, err := c.hasher.Hash(ctx, pw)
	if err == nil {
		err = c.users.SetPassword(ctx, user, hash)
	}
	if err != nil {
		c.log.WarnContext(ctx, "password could not be rehashed", "user", user, "err", err)
	}
}

// loginByAppservice logs a user of an application service in (application service API, "Server admin style
// permissions").
func (c *Client) loginByAppservice(r *http.Request, q *loginRequest) (id.User, error) {
	s, err := c.appserviceOf(r)
	if err != nil {
		return "", err
	}
	who := q.who()
	if who == nil {
		return "", merr.MissingParam("identifier")
	}
	user, err := who.user(c.server(r))
	if err != nil {
		return "", err
	}
	if !s.MayActAs(user) {
		return "", merr.Exclusive("The user is not in a namespace of the application service").WithStatus(http.StatusForbidden)
	}
	a, err := c.users.Account(r.Context(), user)
	if errors.Is(err, userdb.ErrNotFound) {
		return "", merr.Forbidden("The user is not registered")
	}
	if err != nil {
		return "", err
	}
	if a.Deactivated {
		return "", merr.UserDeactivated()
	}
	return user, nil
}

// sessionAnswer is the answer to /login, /register and the shared secret registration.
type sessionAnswer struct {
	UserID       id.User        `json:"user_id"`
	AccessToken  string         `json:"access_token,omitempty"`
	DeviceID     id.Device      `json:"device_id,omitempty"`
	HomeServer   id.Server      `json:"home_server,omitempty"`
	RefreshToken string         `json:"refresh_token,omitempty"`
	ExpiresInMS  int64          `json:"expires_in_ms,omitempty"`
	WellKnown    map[string]any `json:"well_known,omitempty"`
}

const (
	maxDeviceID   = 512
	maxDeviceName = 100
)

func checkDevice(device, name string) error {
	if len(device) > maxDeviceID || strings.ContainsAny(device, "\x00") {
		return merr.InvalidParam("device_id is too long or has forbidden characters")
	}
	if len([]rune(name)) > maxDeviceName || strings.Contains(name, "\x00") {
		return merr.InvalidParam("Device display name is too long (max 100)")
	}
	return nil
}

func newDeviceID() id.Device { return id.Device(rand.Text()[:10]) }

// newSession gives a user a session: on the device, or a new one if it is empty.
func (c *Client) newSession(ctx context.Context, user id.User, device id.Device, name string, refreshable bool) (*sessionAnswer, error) {
	if err := c.mayLogIn(ctx, user, device); err != nil {
		return nil, err
	}
	if device == "" {
		device = newDeviceID()
	}
	part := partition.Of(string(user))
	answer := &sessionAnswer{UserID: user, DeviceID: device, HomeServer: user.Server()}
	l := userdb.Login{User: user, Device: device, DisplayName: name}
	answer.AccessToken, l.Access = session.NewToken(session.AccessToken, part)
	if refreshable {
		c.addRefresh(&l, answer, part)
	}
	created, err := c.users.AddLogin(ctx, l)
	if err != nil {
		return nil, err
	}
	if !created {
		c.sessions.Forget(user, device)
	}
	return answer, nil
}

// addRefresh makes a session one that is refreshed (client-server API, "Refreshing access tokens").
func (c *Client) addRefresh(l *userdb.Login, answer *sessionAnswer, part uint32) {
	token, hash := session.NewToken(session.RefreshToken, part)
	answer.RefreshToken, l.Refresh = token, &hash
	answer.ExpiresInMS = c.cfg.Tokens.Access.Milliseconds()
	now := time.Now()
	l.AccessExpires = userdb.Millis(now.Add(c.cfg.Tokens.Access))
	if c.cfg.Tokens.Refresh > 0 {
		l.RefreshExpires = userdb.Millis(now.Add(c.cfg.Tokens.Refresh))
	}
}

// refresh answers POST /refresh.
func (c *Client) refresh(w http.ResponseWriter, r *http.Request) error {
	if err := c.limits.Allow(r.Context(), limitLogin, httpx.ClientKey(r)); err != nil {
		return err
	}
	var q struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.RefreshToken == "" {
		return merr.MissingParam("refresh_token")
	}
	part, hash, ok := session.ParseToken(session.RefreshToken, q.RefreshToken)
	if !ok {
		return merr.UnknownToken(false)
	}
	answer := new(sessionAnswer)
	var l userdb.Login
	answer.AccessToken, l.Access = session.NewToken(session.AccessToken, part)
	c.addRefresh(&l, answer, part)
	l, err := c.users.Refresh(r.Context(), part, hash, l)
	switch {
	case errors.Is(err, userdb.ErrNotFound):
		return merr.UnknownToken(false)
	case errors.Is(err, userdb.ErrExpired):
		return merr.UnknownToken(true)
	case err != nil:
		return err
	}
	c.sessions.Forget(l.User, l.Device)
	return httpx.OK(w, map[string]any{
		"access_token": answer.AccessToken, "refresh_token": answer.RefreshToken, "expires_in_ms": answer.ExpiresInMS,
	})
}

func (c *Client) logout(w http.ResponseWriter, r *http.Request) error {
	i := me(r)
	if i.Device == "" {
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "An application service without a device cannot log out")
	}
	if err := c.deleteDevices(r.Context(), i.User, []id.Device{i.Device}); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Client) logoutAll(w http.ResponseWriter, r *http.Request) error {
	if err := c.logoutDevices(r.Context(), me(r).User, ""); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// logoutDevices deletes all devices of a user but one.
func (c *Client) logoutDevices(ctx context.Context, user id.User, but id.Device) error {
	rows, err := c.users.Devices(ctx, user)
	if err != nil {
		return err
	}
	var devices []id.Device
	for _, d := range rows {
		if id.Device(d.DeviceID) != but {
			devices = append(devices, id.Device(d.DeviceID))
		}
	}
	return c.deleteDevices(ctx, user, devices)
}

func (c *Client) whoami(w http.ResponseWriter, r *http.Request) error {
	i := me(r)
	answer := map[string]any{"user_id": i.User, "is_guest": i.Guest}
	if i.Device != "" {
		answer["device_id"] = i.Device
	}
	return httpx.OK(w, answer)
}
