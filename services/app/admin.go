package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/password"
	"hanse/pkg/pg"
	"hanse/pkg/pg/local"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// Admin does what an operator does past the APIs, straight in the databases. The cluster may be running or not.
type Admin struct {
	cfg    *Config
	shards *pg.Shards
	users  *userdb.DB
	out    userdb.Bus
	close  []func() error
}

// OpenAdmin connects to the configured databases; a private PostgreSQL that does not run is started for as long.
func OpenAdmin(ctx context.Context, cfg *Config, log *slog.Logger) (*Admin, error) {
	a := &Admin{cfg: cfg}
	if err := a.open(ctx, log); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *Admin) open(ctx context.Context, log *slog.Logger) error {
	if len(a.cfg.PostgreSQL.Shards) == 0 {
		if err := a.openPrivate(ctx, log); err != nil {
			return err
		}
	}
	shards, err := pg.Open(ctx, a.cfg.PostgreSQL)
	if err != nil {
		return err
	}
	a.shards = shards
	a.close = append(a.close, func() error { shards.Close(); return nil })
	if err := partition.Fix(shards.P()); err != nil {
		return err
	}
	var out userdb.Bus = silent{}
	if a.cfg.NATS.URL != "" {
		b, err := bus.Open(ctx, bus.Config{URL: a.cfg.NATS.URL, Name: "admin", Log: log})
		if err != nil {
			return err
		}
		a.close = append(a.close, func() error { b.Close(); return nil })
		out = b
	}
	a.out, a.users = out, userdb.New(shards, out)
	return nil
}

// openPrivate finds the private PostgreSQL of a running process, or starts it.
func (a *Admin) openPrivate(ctx context.Context, log *slog.Logger) error {
	lock, err := lockData(a.cfg.DataDir)
	if errors.Is(err, errDataInUse) {
		dsn, ok := local.Attach(a.cfg.postgresDir(), database)
		if !ok {
			return fmt.Errorf("%w, whose PostgreSQL does not run", err)
		}
		a.cfg.PostgreSQL.Shards = []string{dsn}
		return nil
	}
	if err != nil {
		return err
	}
	a.close = append(a.close, lock.Close)
	srv, err := startPostgres(ctx, a.cfg, log)
	if err != nil {
		return err
	}
	a.close = append(a.close, srv.Stop)
	return nil
}

// Close ends the connections.
func (a *Admin) Close() error {
	var errs []error
	for _, f := range slices.Backward(a.close) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// silent is the bus of a cluster whose NATS runs inside its process: its workers find out from the database, within
// the time for which they trust what they remember.
type silent struct{}

func (silent) PublishUsers(uint32, ...*logv1.UserSeq) error { return nil }
func (silent) PublishAuth(*logv1.AuthInvalidation) error    { return nil }
func (silent) WakeFedout(uint32) error                      { return nil }

// NewUser is what CreateUser makes.
type NewUser struct {
	Name        string // localpart, or the full id
	Server      string // one of the cluster's names; empty: the first one
	Password    string
	Displayname string
	Admin       bool
}

// user returns the id that is meant by a localpart or an id.
func (a *Admin) user(name, server string) (id.User, error) {
	if server == "" {
		server = a.cfg.ServerNames[0]
	}
	if name == "" {
		return "", errors.New("user: no name")
	}
	if name[0] != '@' {
		return id.ParseUser(string(id.NewUser(name, id.Server(server))))
	}
	user, err := id.ParseUser(name)
	if err == nil && !slices.Contains(a.cfg.ServerNames, string(user.Server())) {
		err = fmt.Errorf("%s is not of a server of this cluster", user)
	}
	return user, err
}

// CreateUser creates an account and returns its id.
func (a *Admin) CreateUser(ctx context.Context, n NewUser) (id.User, error) {
	user, err := a.user(n.Name, n.Server)
	if err != nil {
		return "", err
	}
	if err := id.ParseStrictLocalpart(user.Localpart()); err != nil {
		return "", err
	}
	hash, err := a.hash(ctx, n.Password)
	if err != nil {
		return "", err
	}
	created, err := a.users.CreateAccount(ctx, userdb.NewAccount{User: user, PasswordHash: hash, Admin: n.Admin,
		Displayname: n.Displayname, CreatedTS: userdb.Millis(time.Now())})
	if err == nil && !created {
		err = fmt.Errorf("%s exists already", user)
	}
	return user, err
}

func (a *Admin) hash(ctx context.Context, text string) (string, error) {
	if text == "" {
		return "", errors.New("the password is empty")
	}
	return password.New(a.cfg.Password).Hash(ctx, text)
}

// SetPassword replaces a password; with logout, all devices of the user go too.
func (a *Admin) SetPassword(ctx context.Context, name, text string, logout bool) (id.User, error) {
	user, err := a.user(name, "")
	if err != nil {
		return "", err
	}
	hash, err := a.hash(ctx, text)
	if err != nil {
		return "", err
	}
	if err := a.users.SetPassword(ctx, user, hash); err != nil {
		return "", fmt.Errorf("%s: %w", user, err)
	}
	if !logout {
		return user, nil
	}
	devices, err := a.users.Devices(ctx, user)
	if err != nil {
		return "", err
	}
	ids := make([]id.Device, len(devices))
	for i, d := range devices {
		ids[i] = id.Device(d.DeviceID)
	}
	_, err = a.users.DeleteDevices(ctx, user, ids) // a client worker does the tasks
	return user, err
}

// Deactivate closes an account for good; a client worker makes it leave its rooms.
func (a *Admin) Deactivate(ctx context.Context, name string, erase bool) (id.User, error) {
	user, err := a.user(name, "")
	if err != nil {
		return "", err
	}
	_, err = a.users.Deactivate(ctx, user, erase, userdb.Task{User: user, Kind: userdb.TaskDeactivate})
	return user, err
}

// Partitions lists the partitions with the shard that each lies on.
func (a *Admin) Partitions(ctx context.Context) ([]partition.Row, []int, error) {
	rows, err := partition.NewRows(a.shards).List(ctx)
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(rows, func(x, y partition.Row) int { return int(x.Part) - int(y.Part) })
	shards := make([]int, len(rows))
	for i, row := range rows {
		shards[i] = slices.Index(a.shards.All(), a.shards.For(row.Part))
	}
	return rows, shards, nil
}

// MoveOwner asks for a worker as the owner of a partition; "" leaves it to the workers again.
func (a *Admin) MoveOwner(ctx context.Context, part uint32, worker string) error {
	if part >= a.shards.P() {
		return partition.ErrNoPartition
	}
	return partition.NewRows(a.shards).Pin(ctx, part, worker)
}
