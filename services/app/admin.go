package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/local"
	"hanse/pkg/servers"
	logv1 "hanse/proto/log/v1"
	"hanse/services/admin"
)

// Operator is the administration of the configured cluster, with what had to be opened for it.
type Operator struct {
	*admin.Admin
	cfg    *Config
	shards *pg.Shards
	create bool // a cluster that does not exist yet may be created
	close  []func() error
}

// OpenAdmin connects to the configured databases; a private PostgreSQL that does not run is started for as long. The
// cluster must exist, and serve the configured names: a command with the wrong configuration must not make another one.
func OpenAdmin(ctx context.Context, cfg *Config, log *slog.Logger) (*Operator, error) {
	o := &Operator{cfg: cfg}
	if err := o.open(ctx, log); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Migrate brings the schema of all shards up to date, and creates the cluster on databases that are empty.
func Migrate(ctx context.Context, cfg *Config, log *slog.Logger) error {
	cfg.PostgreSQL.Migrate = true
	o := &Operator{cfg: cfg, create: true}
	return errors.Join(o.open(ctx, log), o.Close())
}

func (o *Operator) open(ctx context.Context, log *slog.Logger) error {
	if len(o.cfg.PostgreSQL.Shards) == 0 {
		if err := o.openPrivate(ctx, log); err != nil {
			return err
		}
	}
	o.cfg.PostgreSQL.MustExist = !o.create
	shards, err := pg.Open(ctx, o.cfg.PostgreSQL)
	if err != nil {
		return err
	}
	o.shards = shards
	o.close = append(o.close, func() error { shards.Close(); return nil })
	if err := partition.Fix(shards.P()); err != nil {
		return err
	}
	if err := checkNames(ctx, shards, o.cfg.names(), log); err != nil {
		return err
	}
	var out admin.Bus = silent{}
	if o.cfg.NATS.URL != "" {
		b, err := bus.Open(ctx, bus.Config{URL: o.cfg.NATS.URL, Name: "admin", Log: log})
		if err != nil {
			return err
		}
		o.close = append(o.close, func() error { b.Close(); return nil })
		out = b
	}
	o.Admin, err = admin.New(admin.Deps{Names: o.cfg.names(), Shards: shards, Bus: out, Password: o.cfg.Password,
		AppserviceFiles: o.cfg.AppServices.Files})
	return err
}

// openPrivate finds the private PostgreSQL of a running process, or starts it.
func (o *Operator) openPrivate(ctx context.Context, log *slog.Logger) error {
	if _, err := os.Stat(filepath.Join(o.cfg.postgresDir(), "PG_VERSION")); errors.Is(err, fs.ErrNotExist) && !o.create {
		return fmt.Errorf("there is no server in %q (data_dir): name the configuration of the one that is meant with --config, or start a new one with 'hanse run'",
			o.cfg.DataDir)
	}
	lock, err := lockData(o.cfg.DataDir)
	if errors.Is(err, errDataInUse) {
		dsn, ok := local.Attach(o.cfg.postgresDir(), database)
		if !ok {
			return fmt.Errorf("%w, whose PostgreSQL does not run", err)
		}
		o.cfg.PostgreSQL.Shards = []string{dsn}
		return nil
	}
	if err != nil {
		return err
	}
	o.close = append(o.close, lock.Close)
	srv, err := startPostgres(ctx, o.cfg, log)
	if err != nil {
		return err
	}
	o.close = append(o.close, srv.Stop)
	return nil
}

// Close ends the connections.
func (o *Operator) Close() error {
	var errs []error
	for _, f := range slices.Backward(o.close) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// checkNames compares the configured server names with those that the cluster has served so far. Names may be added;
// a configuration with none of the cluster's names belongs to another cluster.
func checkNames(ctx context.Context, shards *pg.Shards, configured []id.Server, log *slog.Logger) error {
	served, err := servers.Served(ctx, shards)
	if err != nil {
		return err
	}
	var missing []id.Server
	for _, name := range served {
		if !slices.Contains(configured, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if len(missing) == len(served) {
		return fmt.Errorf("these data belong to %v, and the configuration names %v (server_names): a server cannot be renamed; use another data_dir or another database for another server",
			served, configured)
	}
	log.Warn("the cluster has served names that the configuration lacks (server_names): their users cannot use it now", "missing", missing)
	return nil
}

// silent is the bus of a cluster whose NATS runs inside its process: its workers find out from the database, within
// the time for which they trust what they remember.
type silent struct{}

func (silent) PublishUsers(uint32, ...*logv1.UserSeq) error { return nil }
func (silent) PublishAuth(*logv1.AuthInvalidation) error    { return nil }
func (silent) WakeFedout(uint32) error                      { return nil }
func (silent) PublishAppservices() error                    { return nil }

// OpenMedia opens the media of the configured cluster for one of the operator's commands.
func OpenMedia(ctx context.Context, cfg *Config, log *slog.Logger) (*mediastore.Store, func() error, error) {
	o := &Operator{cfg: cfg}
	if err := o.open(ctx, log); err != nil {
		return nil, nil, errors.Join(err, o.Close())
	}
	store, err := mediastore.Open(ctx, cfg.Media.Store, cfg.DataDir, o.shards, log)
	if err != nil {
		return nil, nil, errors.Join(err, o.Close())
	}
	return store, func() error { return errors.Join(store.Close(), o.Close()) }, nil
}
