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
	PublicBaseURL string `doc:"Where clients reach this API, as https://matrix.example.org; answered by /.well-known/matrix/client. Empty: not answered."`
	PublicServer  string `doc:"Host and port where other servers reach the federation API; answered by /.well-known/matrix/server. Empty: not answered."`
	Registration  Registration
	Session       session.Config
	Tokens        Tokens
	Support       Support
	UserDirectory UserDirectory
	// UIATimeout is how long a session of user-interactive authentication lives without use.
	UIATimeout time.Duration `doc:"How long user-interactive authentication may pause."`
	// TaskInterval is how often a worker looks for tasks of workers that died.
	TaskInterval time.Duration `doc:"How often a worker looks for work that a dead one left."`
}

// Registration is who may make an account.
type Registration struct {
	// Enabled opens registration to anybody.
	Enabled bool `doc:"Whether anybody may register."`
	// SharedSecret opens /_synapse/admin/v1/register; empty: closed.
	SharedSecret string `secret:"true" doc:"Secret of /_synapse/admin/v1/register, by which tools make accounts. Empty: closed."`
	// Tokens, if there are any, are what registering demands (m.login.registration_token): token to number of uses, 0
	// for any number.
	Tokens map[string]int64 `secret:"true" doc:"Tokens that registering demands, with the number of times that each may be used; 0: any."`
	// Guests may register without a password.
	Guests bool `doc:"Whether guests may register, without a password."`
}

// Tokens is how long tokens live.
type Tokens struct {
	// Access is the life of access tokens of clients that refresh them; those of others do not expire.
	Access time.Duration `doc:"Life of the access tokens of clients that refresh them; those of others do not expire."`
	// Refresh is the life of refresh tokens; 0: they do not expire.
	Refresh time.Duration `doc:"Life of refresh tokens; 0: they do not expire."`
	// OpenID is the life of OpenID tokens.
	OpenID time.Duration `yaml:"openid" doc:"Life of OpenID tokens."`
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
	SearchAll bool `doc:"Whether everybody finds all local users, not only those who share a room or are in a public one."`
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
