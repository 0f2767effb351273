package clienttest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"hanse/pkg/matrix/id"
)

// User is somebody who is logged in.
type User struct {
	C            *Cluster
	ID           id.User
	Token        string
	Device       string
	RefreshToken string
}

// Reply is the answer to a request.
type Reply struct {
	Status int
	Raw    []byte
	Header http.Header
	Body   map[string]any

	t *testing.T
}

// Do makes a request; body is nil, a string (sent as it is) or something to marshal.
func (c *Cluster) Do(method, path, token string, body any) *Reply {
	c.t.Helper()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		Must(c.t, err)
		rd = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, rd)
	Must(c.t, err)
	req.Host = "a.example"
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	Must(c.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	Must(c.t, err)
	a := &Reply{t: c.t, Status: resp.StatusCode, Raw: raw, Header: resp.Header}
	if len(raw) > 0 && raw[0] == '{' {
		Must(c.t, json.Unmarshal(raw, &a.Body))
	}
	return a
}

// OK demands 200.
func (a *Reply) OK() *Reply {
	a.t.Helper()
	if a.Status != http.StatusOK {
		a.t.Fatalf("status %d: %s", a.Status, a.Raw)
	}
	return a
}

// Fails demands a status and an errcode.
func (a *Reply) Fails(status int, code string) *Reply {
	a.t.Helper()
	if a.Status != status || a.Str("errcode") != code {
		a.t.Errorf("answer %d %s, want %d %s", a.Status, a.Raw, status, code)
	}
	return a
}

// Get walks members of the answer.
func (a *Reply) Get(path ...string) any {
	var v any = a.Body
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// Str is Get for a text, "" if there is none.
func (a *Reply) Str(path ...string) string {
	s, _ := a.Get(path...).(string)
	return s
}

// Do makes a request as the user.
func (u *User) Do(method, path string, body any) *Reply {
	u.C.t.Helper()
	return u.C.Do(method, path, u.Token, body)
}

// Password is that of all accounts.
const Password = "correct horse battery staple"

// Register makes an account with a session.
func (c *Cluster) Register(name string) *User {
	c.t.Helper()
	a := c.Do("POST", V3+"/register", "", map[string]any{
		"username": name, "password": Password, "auth": map[string]string{"type": "m.login.dummy"},
	}).OK()
	return &User{C: c, ID: id.User(a.Str("user_id")), Token: a.Str("access_token"), Device: a.Str("device_id")}
}

// Login gives the user another session.
func (c *Cluster) Login(u id.User, more map[string]any) *User {
	c.t.Helper()
	q := map[string]any{"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": u}, "password": Password}
	for k, v := range more {
		q[k] = v
	}
	a := c.Do("POST", V3+"/login", "", q).OK()
	return &User{C: c, ID: u, Token: a.Str("access_token"), Device: a.Str("device_id"), RefreshToken: a.Str("refresh_token")}
}

// Auth is the auth member that confirms a request with the password.
func (u *User) Auth() map[string]any {
	return map[string]any{"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": u.ID}, "password": Password}
}
