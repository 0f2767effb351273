package room

import (
	"errors"
	"fmt"
	"time"

	"hanse/pkg/matrix/roomversion"
)

// Config is what an operator may set of the room role.
type Config struct {
	Lanes     int   `yaml:"lanes" doc:"Commits under way at once for each PostgreSQL shard. Fewer make larger batches, more use more of the database's cores."`
	BatchRows int   `yaml:"batch_rows" doc:"Largest number of rows, roughly, in one commit."`
	QueueRows int   `yaml:"queue_rows" doc:"Largest number of rows, roughly, that wait for one lane; beyond it writes are refused."`
	Rooms     int   `yaml:"rooms" doc:"Rooms that one worker keeps in memory at most."`
	Cache     int64 `yaml:"cache" doc:"Memory for events that the auth rules read, in bytes."`
	Graphs    int64 `yaml:"graphs" doc:"Memory for the auth graphs of rooms whose forks are resolved, and for what is known of events that were in conflict, in bytes."`

	DefaultVersion string `yaml:"default_version" doc:"Version of new rooms where a client asks for none."`

	CollectEvery time.Duration `yaml:"collect_every" doc:"How often, about, states of rooms that nothing refers to are removed from a partition; 0: never."`

	ResolveShare float64       `yaml:"resolve_share" doc:"Share of a processor that the forks of one room get in the long run. A room that needs more takes in events of other servers more slowly."`
	ResolveBurst time.Duration `yaml:"resolve_burst" doc:"Processor time that a room may use for its forks at once after it has needed none for long."`
}

// Defaults suit a small server and a large one alike.
func Defaults() Config {
	return Config{Lanes: 2, BatchRows: 2000, QueueRows: 20000, Rooms: 4096, Cache: 32 << 20, Graphs: 128 << 20,
		DefaultVersion: roomversion.Default, CollectEvery: 12 * time.Hour, ResolveShare: 0.2, ResolveBurst: 5 * time.Second}
}

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	for _, f := range []struct {
		name       string
		have, from int64
	}{
		{"lanes", int64(c.Lanes), 1}, {"batch_rows", int64(c.BatchRows), 1}, {"queue_rows", int64(c.QueueRows), 1},
		{"rooms", int64(c.Rooms), 64}, {"cache", c.Cache, 1 << 20}, {"graphs", c.Graphs, 1 << 20},
	} {
		if f.have < f.from {
			errs = append(errs, fmt.Errorf("%s: %d is less than %d", f.name, f.have, f.from))
		}
	}
	if rules, ok := roomversion.Get(c.DefaultVersion); !ok || !rules.Stable {
		errs = append(errs, fmt.Errorf("default_version: %q is no stable room version that this server knows", c.DefaultVersion))
	}
	if c.ResolveShare <= 0 || c.ResolveBurst <= 0 {
		errs = append(errs, errors.New("resolve_share: must be positive, and resolve_burst too"))
	}
	if c.CollectEvery != 0 && c.CollectEvery < time.Minute {
		errs = append(errs, errors.New("collect_every: must be 0 or a minute at least"))
	}
	return errors.Join(errs...)
}
