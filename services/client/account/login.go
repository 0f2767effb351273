package account

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
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
	"hanse/services/client/uia"
)

// The kinds of rate limits, by address, that logging in and registering take from.
const (
	limitLogin    = "login"
	limitRegister = "register"
)

const (
	loginPassword   = "m.login.password"
	loginAppservice = "m.login.application_service"
)

func (c *Account) loginRoutes(rt *core.Routes) {
	rt.Open.Handle("GET /login", c.loginFlows)
	rt.Open.Handle("POST /login", c.login)
	rt.Open.Handle("POST /refresh", c.refresh)
	rt.OpenV1.Handle("POST /refresh", c.refresh)
	rt.Guest.Handle("POST /logout", c.logout)
	rt.Guest.Handle("POST /logout/all", c.logoutAll)
	rt.Guest.Handle("GET /account/whoami", c.whoami)
}

func (c *Account) loginFlows(w http.ResponseWriter, _ *http.Request) error {
	flows := []map[string]any{{"type": loginPassword}}
	if len(c.apps.All()) > 0 {
		flows = append(flows, map[string]any{"type": loginAppservice})
	}
	return httpx.OK(w, map[string]any{"flows": flows})
}

type loginRequest struct {
	Type         string          `json:"type"`
	Identifier   *uia.Identifier `json:"identifier"`
	User         string          `json:"user"`    // deprecated
	Medium       string          `json:"medium"`  // deprecated
	Address      string          `json:"address"` // deprecated
	Password     *string         `json:"password"`
	DeviceID     string          `json:"device_id"`
	DeviceName   string          `json:"initial_device_display_name"`
	RefreshToken bool            `json:"refresh_token"`
}

// who returns the identifier, given in the present way or in the deprecated one.
func (q *loginRequest) who() *uia.Identifier {
	switch {
	case q.Identifier != nil:
		return q.Identifier
	case q.User != "":
		return &uia.Identifier{Type: uia.IDUser, User: q.User}
	case q.Medium != "" || q.Address != "":
		return &uia.Identifier{Type: uia.IDThirdParty, Medium: q.Medium, Address: q.Address}
	}
	return nil
}

// login answers POST /login (client-server API, "Login").
func (c *Account) login(w http.ResponseWriter, r *http.Request) error {
	if err := c.allowAddress(r, limitLogin); err != nil {
		return err
	}
	var q loginRequest
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if err := CheckDevice(q.DeviceID, q.DeviceName); err != nil {
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
	if c.baseURL != "" {
		answer.WellKnown = map[string]any{"m.homeserver": map[string]string{"base_url": c.baseURL}}
	}
	return httpx.OK(w, answer)
}

func (c *Account) loginByPassword(r *http.Request, q *loginRequest) (id.User, error) {
	who := q.who()
	if who == nil {
		return "", merr.MissingParam("identifier")
	}
	if q.Password == nil {
		return "", merr.MissingParam("password")
	}
	user, err := who.UserID(c.Server(r))
	if err != nil {
		return "", err
	}
	ctx := r.Context()
	if err := c.uia.LimitPassword(ctx, user); err != nil {
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
	ok, err := c.uia.CheckPassword(ctx, *q.Password, hash)
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

type account struct {
	PasswordHash string
	Deactivated  bool
}

// findAccount returns the account of a user, also if the case of the localpart is not right; nil if there is none.
func (c *Account) findAccount(ctx context.Context, user id.User) (id.User, *account, error) {
	if !c.IsLocal(user) {
		return user, nil, nil
	}
	lower := uia.Canonical(user)
	for _, u := range []id.User{user, lower} {
		a, err := c.Users.Account(ctx, u)
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

// rehash stores the password at the present cost. If that fails, the next login tries again.
func (c *Account) rehash(ctx context.Context, user id.User, pw string) {
	hash, err := c.hasher.Hash(ctx, pw)
	if err == nil {
		err = c.Users.SetPassword(ctx, user, hash)
	}
	if err != nil {
		c.Log.WarnContext(ctx, "password could not be rehashed", "user", user, "err", err)
	}
}

// loginByAppservice logs a user of an application service in (application service API, "Server admin style
// permissions").
func (c *Account) loginByAppservice(r *http.Request, q *loginRequest) (id.User, error) {
	s, err := c.appserviceOf(r)
	if err != nil {
		return "", err
	}
	who := q.who()
	if who == nil {
		return "", merr.MissingParam("identifier")
	}
	user, err := who.UserID(s.Server)
	if err != nil {
		return "", err
	}
	if !s.MayActAs(user) {
		return "", merr.Exclusive("The user is not in a namespace of the application service").WithStatus(http.StatusForbidden)
	}
	a, err := c.Users.Account(r.Context(), user)
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

// CheckDevice checks the id and the name that a client gives a device.
func CheckDevice(device, name string) error {
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
func (c *Account) newSession(ctx context.Context, user id.User, device id.Device, name string, refreshable bool) (*sessionAnswer, error) {
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
	created, err := c.Users.AddLogin(ctx, l)
	if err != nil {
		return nil, err
	}
	if !created {
		c.Sessions.Forget(user, device)
	}
	return answer, nil
}

// mayLogIn checks that a user may have a session on a device; an empty one is new.
func (c *Account) mayLogIn(ctx context.Context, user id.User, device id.Device) error {
	if device != "" {
		if _, err := c.Users.Device(ctx, user, device); err == nil || !errors.Is(err, userdb.ErrNotFound) {
			return err
		}
	}
	return c.MayStore(ctx, user, userdb.StoredDevices, c.Quotas.Devices)
}

// addRefresh makes a session one that is refreshed (client-server API, "Refreshing access tokens").
func (c *Account) addRefresh(l *userdb.Login, answer *sessionAnswer, part uint32) {
	token, hash := session.NewToken(session.RefreshToken, part)
	answer.RefreshToken, l.Refresh = token, &hash
	answer.ExpiresInMS = c.tokens.Access.Milliseconds()
	now := time.Now()
	l.AccessExpires = userdb.Millis(now.Add(c.tokens.Access))
	if c.tokens.Refresh > 0 {
		l.RefreshExpires = userdb.Millis(now.Add(c.tokens.Refresh))
	}
}

// refresh answers POST /refresh.
func (c *Account) refresh(w http.ResponseWriter, r *http.Request) error {
	if err := c.Allow(r.Context(), limitLogin, httpx.ClientKey(r)); err != nil {
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
	l, err := c.Users.Refresh(r.Context(), part, hash, l)
	switch {
	case errors.Is(err, userdb.ErrNotFound):
		return merr.UnknownToken(false)
	case errors.Is(err, userdb.ErrExpired):
		return merr.UnknownToken(true)
	case err != nil:
		return err
	}
	c.Sessions.Forget(l.User, l.Device)
	return httpx.OK(w, map[string]any{
		"access_token": answer.AccessToken, "refresh_token": answer.RefreshToken, "expires_in_ms": answer.ExpiresInMS,
	})
}

func (c *Account) logout(w http.ResponseWriter, r *http.Request) error {
	i := core.Me(r)
	if i.Device == "" {
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "An application service without a device cannot log out")
	}
	if err := c.DeleteDevices(r.Context(), i.User, []id.Device{i.Device}); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Account) logoutAll(w http.ResponseWriter, r *http.Request) error {
	if err := c.logoutDevices(r.Context(), core.Me(r).User, ""); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// logoutDevices deletes all devices of a user but one.
func (c *Account) logoutDevices(ctx context.Context, user id.User, but id.Device) error {
	rows, err := c.Users.Devices(ctx, user)
	if err != nil {
		return err
	}
	var devices []id.Device
	for _, d := range rows {
		if id.Device(d.DeviceID) != but {
			devices = append(devices, id.Device(d.DeviceID))
		}
	}
	return c.DeleteDevices(ctx, user, devices)
}

func (c *Account) whoami(w http.ResponseWriter, r *http.Request) error {
	i := core.Me(r)
	answer := map[string]any{"user_id": i.User, "is_guest": i.Guest}
	if i.Device != "" {
		answer["device_id"] = i.Device
	}
	return httpx.OK(w, answer)
}
