package appservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/userdb"
)

// originStore is the origin of services that are not in a file.
const originStore = "store"

var (
	// ErrNotFound is returned for an id that is not in the store.
	ErrNotFound = errors.New("there is no such application service in the store")
	// ErrExists is returned for an id that is in the store already.
	ErrExists = errors.New("there is an application service with this id already")
)

// Accounts makes accounts (userdb.DB).
type Accounts interface {
	CreateAccount(ctx context.Context, a userdb.NewAccount) (created bool, err error)
}

// Store is the registrations that are kept in the database, on the first shard.
type Store struct{ shards *pg.Shards }

// NewStore returns the store of a cluster.
func NewStore(shards *pg.Shards) *Store { return &Store{shards} }

func (s *Store) pool() *pgxpool.Pool { return s.shards.All()[0] }

// version is another one after each change.
func (s *Store) version(ctx context.Context) (v int64, err error) {
	if err = s.pool().QueryRow(ctx, `SELECT version FROM appservice_store`).Scan(&v); err != nil {
		err = fmt.Errorf("version of the application services: %w", err)
	}
	return v, err
}

// list returns what is stored, and the version of that.
func (s *Store) list(ctx context.Context) (version int64, services []*Service, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT version FROM appservice_store`).Scan(&version); err != nil {
			return err
		}
		services, err = readAll(ctx, tx)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("read the application services: %w", err)
	}
	return version, services, nil
}

func readAll(ctx context.Context, tx pgx.Tx) ([]*Service, error) {
	rows, err := tx.Query(ctx, `SELECT id, registration FROM appservice ORDER BY id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Service, error) {
		var name string
		var raw string
		if err := row.Scan(&name, &raw); err != nil {
			return nil, err
		}
		s, err := parseStored([]byte(raw))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		s.Origin = originStore
		return s, nil
	})
}

// Add stores a service, if it goes together with those that are stored and those of the files. With replace it takes the place of
// the stored one with its id. The caller tells the workers.
func (s *Store) Add(ctx context.Context, one *Service, replace bool, files []*Service, accounts Accounts) error {
	one.Origin = originStore
	return s.change(ctx, func(tx pgx.Tx) error {
		all, err := readAll(ctx, tx)
		if err != nil {
			return err
		}
		rest := slices.DeleteFunc(slices.Clone(all), func(old *Service) bool { return old.ID == one.ID })
		if len(rest) < len(all) && !replace {
			return fmt.Errorf("%q: %w", one.ID, ErrExists)
		}
		together, err := newSnapshot(0, append(append(rest, one), files...))
		if err != nil {
			return err
		}
		if err := ensureSenders(ctx, s.shards, accounts, []*Service{one}, together); err != nil {
			return err
		}
		raw, err := one.stored()
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO appservice (id, registration, changed_ts) VALUES ($1, $2, $3)
			ON CONFLICT (id) DO UPDATE SET registration = excluded.registration, changed_ts = excluded.changed_ts`,
			one.ID, string(raw), time.Now().UnixMilli())
		return err
	})
}

// Remove takes a service out of the store. The caller tells the workers.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM appservice WHERE id = $1`, name)
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("%q: %w", name, ErrNotFound)
		}
		return err
	})
}

// change makes one change after the other: its first statement takes the lock.
func (s *Store) change(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pg.InTx(ctx, s.pool(), func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE appservice_store SET version = version + 1`); err != nil {
			return err
		}
		return f(tx)
	})
}

// List returns the stored services, by id.
func (s *Store) List(ctx context.Context) ([]*Service, error) {
	_, services, err := s.list(ctx)
	return services, err
}

// LoadFiles reads registrations from files.
func LoadFiles(paths []string, names []id.Server) ([]*Service, error) {
	files, _, err := readFiles(paths)
	if err != nil {
		return nil, err
	}
	return parseFiles(files, names)
}

// CheckFiles reports what is wrong with registrations in files, each by itself and together.
func CheckFiles(paths []string, names []id.Server) error {
	services, err := LoadFiles(paths, names)
	if err == nil {
		_, err = newSnapshot(0, services)
	}
	return err
}

// ensureSenders makes the accounts of senders that do not exist. It refuses those that a person has registered, or another one of
// the services. An account of a service that is gone may be taken over.
func ensureSenders(ctx context.Context, shards *pg.Shards, accounts Accounts, fresh []*Service, all *Snapshot) error {
	owners, err := ownersOf(ctx, shards, fresh)
	if err != nil {
		return err
	}
	for _, s := range fresh {
		owner, exists := owners[s.Sender]
		switch {
		case !exists:
			_, err := accounts.CreateAccount(ctx, userdb.NewAccount{User: s.Sender, Appservice: s.ID, Displayname: s.Sender.Localpart(),
				CreatedTS: userdb.Millis(time.Now())})
			if err != nil {
				return err
			}
		case owner == "":
			return fmt.Errorf("application service %q (%s): sender_localpart: %s is an account of somebody already", s.ID, s.Origin, s.Sender)
		case owner != s.ID && all.ByID(owner) != nil:
			return fmt.Errorf("application service %q (%s): sender_localpart: %s is an account of application service %q", s.ID, s.Origin, s.Sender, owner)
		}
	}
	return nil
}

// ownersOf returns which services the accounts of senders belong to; "" is a person's.
func ownersOf(ctx context.Context, shards *pg.Shards, services []*Service) (map[id.User]string, error) {
	byShard := make(map[*pgxpool.Pool][]*Service)
	for _, s := range services {
		pool := shards.For(partition.Of(string(s.Sender)))
		byShard[pool] = append(byShard[pool], s)
	}
	owners := make(map[id.User]string, len(services))
	for pool, some := range byShard {
		parts, users := make([]int32, len(some)), make([]string, len(some))
		for i, s := range some {
			parts[i], users[i] = int32(partition.Of(string(s.Sender))), string(s.Sender)
		}
		rows, err := pool.Query(ctx, `SELECT a.user_id, a.appservice_id FROM unnest($1::integer[], $2::text[]) AS s(part, user_id)
			JOIN account a ON a.part = s.part AND a.user_id = s.user_id`, parts, users)
		if err != nil {
			return nil, fmt.Errorf("accounts of senders: %w", err)
		}
		var user, owner string
		if _, err := pgx.ForEachRow(rows, []any{&user, &owner}, func() error { owners[id.User(user)] = owner; return nil }); err != nil {
			return nil, fmt.Errorf("accounts of senders: %w", err)
		}
	}
	return owners, nil
}
