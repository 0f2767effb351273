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
	Pending    int           `yaml:"pending" doc:"Media ids that a user may have created whose upload has not come."`
	Uploads    int           `yaml:"uploads" doc:"Uploads that a worker takes at a time; beyond it they are refused."`
	Downloads  int           `yaml:"downloads" doc:"Downloads that a worker serves at a time; beyond it they are refused."`
	Link       time.Duration `yaml:"link" doc:"Send clients that allow it to the object store itself, by links that live that long. 0: all bytes go through a worker. Needs a store that clients reach."`
	Old        OldPaths      `yaml:"old"`
	Thumbnails Thumbnails    `yaml:"thumbnails"`
	Remote     Remote        `yaml:"remote"`
	Retention  Retention     `yaml:"retention"`
	Previews   Previews      `yaml:"previews"`
	Scanner    Scanner       `yaml:"scanner"`
	Drain      time.Duration `yaml:"drain" doc:"How long a worker that ends waits for uploads and downloads under way. What takes longer breaks off, and clients go on from there at another worker."`
}

// Thumbnails bounds what is decoded for them.
type Thumbnails struct {
	Source int64 `yaml:"source" doc:"Bytes of a file of which a thumbnail is made."`
	Pixels int64 `yaml:"pixels" doc:"Pixels of a picture of which a thumbnail is made, of all frames of an animation together."`
	Memory int64 `yaml:"memory" doc:"Bytes for pictures that a worker decodes at a time; others wait."`
}

// Remote is how media of other servers are kept.
type Remote struct {
	File    int64         `yaml:"file" doc:"Bytes of one file of another server."`
	Cache   int64         `yaml:"cache" doc:"Bytes of all files of other servers that are kept; beyond it those go that were used least recently."`
	Fetches int           `yaml:"fetches" doc:"Files of other servers that a worker fetches at a time; beyond it requests are refused."`
	Window  int64         `yaml:"window" doc:"Bytes of a file that arrives that are held for those who wait for it. Who is slower reads it from the store when it is there."`
	Time    time.Duration `yaml:"time" doc:"How long a file of another server may take."`
	Rate    int64         `yaml:"rate" doc:"Bytes in a second that it must bring on average, after half a minute."`
}

// Validate reports limits that nothing fits into.
func (t *Thumbnails) Validate() error {
	if t.Source < 1 || t.Pixels < 1 || t.Memory < t.Source+12*t.Pixels {
		return errors.New("memory: at least source and twelve bytes for each of the pixels")
	}
	return nil
}

// Validate reports limits that nothing fits into.
func (r *Remote) Validate() error {
	if r.File < 1 || r.Cache < r.File || r.Fetches < 1 || r.Window < 64<<10 || r.Time < time.Second || r.Rate < 1 {
		return errors.New("cache: at least as much as one file may have; window: at least 64 KiB; the others positive")
	}
	return nil
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
		Old:        OldPaths{Enabled: true, Freeze: "2024-09-01"},
		Previews:   Previews{Enabled: true, Page: 1 << 20, Image: 10 << 20, Time: 30 * time.Second, Keep: 48 * time.Hour, Cache: 16 << 20},
		Thumbnails: Thumbnails{Source: 20 << 20, Pixels: 32 << 20, Memory: 512 << 20},
		Scanner:    Scanner{Time: time.Minute, Unanswered: unansweredRefuse},
		Drain:      time.Minute,
		Remote:     Remote{File: 100 << 20, Cache: 10 << 30, Fetches: 64, Window: 4 << 20, Time: 10 * time.Minute, Rate: 4 << 10},
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
	if c.Drain < 0 {
		errs = append(errs, errors.New("drain: not negative"))
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
