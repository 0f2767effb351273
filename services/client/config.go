package client

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"hanse/pkg/session"
)

// Config is what an operator sets for the client API.
type Config struct {
	// PublicBaseURL and PublicServer answer /.well-known; empty: not answered.
	PublicBaseURL string
	PublicServer  string
	Registration  Registration
	Session       session.Config
	Tokens        Tokens
	Support       Support
	UserDirectory UserDirectory
	// UIATimeout is how long a session of user-interactive authentication lives without use.
	UIATimeout time.Duration
	// TaskInterval is how often a worker looks for tasks of workers that died.
	TaskInterval time.Duration
}

// Registration is who may make an account.
type Registration struct {
	// Enabled opens registration to anybody.
	Enabled bool
	// SharedSecret opens /_synapse/admin/v1/register; empty: closed.
	SharedSecret string
	// Tokens, if there are any, are what registering demands (m.login.registration_token): token to number of uses, 0
	// for any number.
	Tokens map[string]int64
	// Guests may register without a password.
	Guests bool
}

// Tokens is how long tokens live.
type Tokens struct {
	// Access is the life of access tokens of clients that refresh them; those of others do not expire.
	Access time.Duration
	// Refresh is the life of refresh tokens; 0: they do not expire.
	Refresh time.Duration
	// OpenID is the life of OpenID tokens.
	OpenID time.Duration
}

// Support is what /.well-known/matrix/support answers.
type Support struct {
	Page     string
	Contacts []Contact
}

// Contact is one way to reach the operator.
type Contact struct {
	Role     string
	MatrixID string
	Email    string
}

// UserDirectory is who finds whom.
type UserDirectory struct {
	// SearchAll lets everybody find all local users, not only those whom they share a room with or who are in public
	// rooms.
	SearchAll bool
}

// Defaults are what a small server works with.
func Defaults() Config {
	return Config{
		Session:      session.Defaults(),
		Tokens:       Tokens{Access: 5 * time.Minute, OpenID: time.Hour},
		UIATimeout:   15 * time.Minute,
		TaskInterval: 5 * time.Second,
	}
}

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	if u, err := url.Parse(c.PublicBaseURL); c.PublicBaseURL != "" && (err != nil || u.Host == "") {
		errs = append(errs, errors.New("public_base_url: is not a URL"))
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"tokens.access", c.Tokens.Access}, {"tokens.openid", c.Tokens.OpenID}, {"uia_timeout", c.UIATimeout}, {"task_interval", c.TaskInterval}} {
		if d.d <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be positive", d.name))
		}
	}
	return errors.Join(errs...)
}
