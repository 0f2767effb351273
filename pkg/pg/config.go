package pg

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DefaultPartitions is P of a cluster that was created without saying otherwise.
const DefaultPartitions = 64

// MaxPartitions bounds P: membership, beacons and readers keep a few bytes for each partition.
const MaxPartitions = 4096

// Config says where the cluster's data lies.
type Config struct {
	Shards     []string `yaml:"shards" secret:"dsn" doc:"PostgreSQL databases of the cluster, as URLs or key=value strings, in the order in which the cluster was created. Empty: a private PostgreSQL in the data directory."`
	Partitions uint32   `yaml:"partitions" doc:"Number of partitions. Read when the cluster is created; afterwards it must stay the same."`
	MaxConns   int32    `yaml:"max_conns" doc:"Connections that one process opens to one shard at most."`
	Migrate    bool     `yaml:"migrate" doc:"Bring the schema up to date at start. Otherwise run 'hanse migrate' before a new version."`
	// MustExist makes Open refuse databases that are no cluster yet, instead of creating one.
	MustExist      bool          `yaml:"-"`
	ConnectTimeout time.Duration `yaml:"connect_timeout" doc:"How long a start waits for the databases."`

	// Tracer is told of the queries of all shards, if it is set.
	Tracer pgx.QueryTracer `yaml:"-"`
}

// Defaults returns the configuration that 'make run' works with.
func Defaults() Config {
	return Config{
		Partitions:     DefaultPartitions,
		MaxConns:       16,
		Migrate:        true,
		ConnectTimeout: 60 * time.Second,
	}
}

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	seen := make(map[string]bool, len(c.Shards))
	for i, dsn := range c.Shards {
		if _, err := pgxpool.ParseConfig(dsn); err != nil {
			errs = append(errs, fmt.Errorf("shards[%d]: not a PostgreSQL connection string", i))
		}
		if seen[dsn] {
			errs = append(errs, fmt.Errorf("shards[%d]: listed twice", i))
		}
		seen[dsn] = true
	}
	if c.Partitions < 1 || c.Partitions > MaxPartitions {
		errs = append(errs, fmt.Errorf("partitions: %d is not between 1 and %d", c.Partitions, MaxPartitions))
	}
	if int(c.Partitions) < len(c.Shards) {
		errs = append(errs, fmt.Errorf("partitions: %d are too few for %d shards", c.Partitions, len(c.Shards)))
	}
	if c.MaxConns < 2 {
		errs = append(errs, fmt.Errorf("max_conns: %d is less than 2", c.MaxConns))
	}
	if c.ConnectTimeout <= 0 {
		errs = append(errs, errors.New("connect_timeout: must be positive"))
	}
	return errors.Join(errs...)
}
