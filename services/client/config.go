package client

import (
	"errors"
	"fmt"
	"time"

	"hanse/pkg/discovery"
	"hanse/pkg/session"
	"hanse/services/client/about"
	"hanse/services/client/account"
	"hanse/services/client/core"
)

// Config is what an operator sets for the client API.
type Config struct {
	// What the world is told has its keys in this section.
	discovery.Config `yaml:",inline"`

	Registration  account.Registration `yaml:"registration"`
	Session       session.Config       `yaml:"session"`
	Tokens        account.Tokens       `yaml:"tokens"`
	UserDirectory UserDirectory        `yaml:"user_directory"`
	Search        Search               `yaml:"search"`
	TURN          about.TURN           `yaml:"turn"`
	Quotas        core.Quotas          `yaml:"quotas"`
	UIATimeout    time.Duration        `yaml:"uia_timeout" doc:"How long a session of user-interactive authentication lives without use."`
	TaskInterval  time.Duration        `yaml:"task_interval" doc:"How often a worker looks for work that another one left behind."`
}

// UserDirectory is who finds whom.
type UserDirectory struct {
	SearchAll bool `yaml:"search_all" doc:"Whether everybody finds all local users, not only those with whom a room is shared or who are in a public room."`
}

// Search is whether messages are found by their words.
type Search struct {
	Enabled bool `yaml:"enabled" doc:"Whether messages that are not encrypted are indexed, and clients may search in them. Switched on again, the index catches up."`
}

// Defaults are what a small server works with.
func Defaults() Config {
	return Config{
		Session:      session.Defaults(),
		Search:       Search{Enabled: true},
		Tokens:       account.Tokens{Access: 5 * time.Minute, OpenID: time.Hour},
		TURN:         about.TURN{Lifetime: 24 * time.Hour},
		Quotas:       core.DefaultQuotas(),
		UIATimeout:   15 * time.Minute,
		TaskInterval: 5 * time.Second,
	}
}

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	errs := []error{c.Config.Validate()}
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
