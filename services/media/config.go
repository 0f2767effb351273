package media

import (
	"errors"
	"fmt"
	"time"

	"hanse/pkg/mediastore"
)

// Config is what an operator sets of the role.
type Config struct {
	Store  mediastore.Config `yaml:"store"`
	Limits map[string]Limit  `yaml:"limits" doc:"What who may upload: user, admin and appservice are kinds of users, other keys are user ids, whose limit takes the place of their kind's."`
	// Pending as MSC2246 has it.
	Pending   int           `yaml:"pending" doc:"Media ids that a user may have created whose upload has not come."`
	Uploads   int           `yaml:"uploads" doc:"Uploads that a worker takes at a time; beyond it they are refused."`
	Downloads int           `yaml:"downloads" doc:"Downloads that a worker serves at a time; beyond it they are refused."`
	Link      time.Duration `yaml:"link" doc:"Send clients that allow it to the object store itself, by links that live that long. 0: all bytes go through a worker. Needs a store that clients reach."`
	Old       OldPaths      `yaml:"old"`
}

// Limit bounds uploads.
type Limit struct {
	File  int64 `yaml:"file" doc:"Bytes of one file."`
	Bytes int64 `yaml:"bytes" doc:"Bytes of all files of a user. 0: no limit."`
	Items int64 `yaml:"items" doc:"Files of a user. 0: no limit."`
}

// OldPaths are /_matrix/media/v3/download and thumbnail, which ask nobody who they are.
type OldPaths struct {
	Enabled bool   `yaml:"enabled" doc:"Serve the deprecated paths without authentication, /_matrix/media/v3/download and thumbnail, for media of before the freeze."`
	Freeze  string `yaml:"freeze" doc:"Date, as 2024-09-01: what was uploaded, or fetched from another server, since then is not served on these paths."`
}

// The kinds of users that have limits.
const (
	kindUser       = "user"
	kindAdmin      = "admin"
	kindAppservice = "appservice"
)

// Defaults suit a small server.
func Defaults() Config {
	return Config{
		Store:   mediastore.Defaults(),
		Limits:  map[string]Limit{kindUser: {File: 50 << 20}, kindAdmin: {File: 50 << 20}, kindAppservice: {File: 50 << 20}},
		Pending: 20, Uploads: 256, Downloads: 4096,
		Old: OldPaths{Enabled: true, Freeze: "2024-09-01"},
	}
}

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	if min(c.Pending, c.Uploads, c.Downloads) < 1 {
		errs = append(errs, errors.New("pending, uploads, downloads: must be positive"))
	}
	for who, l := range c.Limits {
		if l.File < 1 || l.Bytes < 0 || l.Items < 0 {
			errs = append(errs, fmt.Errorf("limits: %s: file must be positive, and no limit negative", who))
		}
	}
	for _, kind := range []string{kindUser, kindAdmin, kindAppservice} {
		if _, ok := c.Limits[kind]; !ok {
			errs = append(errs, fmt.Errorf("limits: there is none for %s", kind))
		}
	}
	if c.Link < 0 || c.Link > time.Hour {
		errs = append(errs, errors.New("link: at most an hour"))
	}
	return errors.Join(errs...)
}

// Validate reports a date that is none.
func (o *OldPaths) Validate() error {
	if _, err := o.freeze(); err != nil {
		return errors.New("freeze: want a date as 2024-09-01")
	}
	return nil
}

func (o *OldPaths) freeze() (time.Time, error) { return time.Parse(time.DateOnly, o.Freeze) }
