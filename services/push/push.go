package push

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/bus"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/netguard"
	"hanse/pkg/node"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// Servers are the names that this cluster serves (servers.Registry).
type Servers interface{ IsLocal(server id.Server) bool }

// Deps is what the role works with.
type Deps struct {
	Shards  *pg.Shards
	Rooms   *roomdb.DB
	Users   *userdb.DB
	Bus     *bus.Bus
	Members *partition.Members
	Servers Servers
	// Guard says which addresses push gateways may have; nil: public ones.
	Guard *netguard.Guard
	// RootCAs are trusted for push gateways; nil: the system's.
	RootCAs    *x509.CertPool
	Log        *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Service is the push role of one worker.
type Service struct {
	cfg      Config
	shards   *pg.Shards
	rooms    *roomdb.DB
	users    *userdb.DB
	bus      *bus.Bus
	servers  Servers
	log      *slog.Logger
	metrics  *metrics
	web      *http.Client
	follow   *follow.Follower[*box]
	audience *audience
	gateways *gateways
}

// New assembles the role; it does nothing before Run.
func New(cfg Config, d Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, shards: d.Shards, rooms: d.Rooms, users: d.Users, bus: d.Bus, servers: d.Servers, log: d.Log,
		metrics: newMetrics(d.Registerer), web: newWeb(cfg, d.Guard, d.RootCAs)}
	s.gateways = newGateways(cfg, s.metrics)
	s.audience = newAudience(d.Shards, d.Rooms, s.isLocal, cfg.Members)
	s.follow = follow.New(follow.Config[*box]{
		Role: node.RolePush, Tables: "push", Reach: follow.SamePartition, FromHead: true,
		Shards: d.Shards, Bus: d.Bus, Members: d.Members, Source: d.Rooms, Log: d.Log,
		Open: s.open, Plan: s.plan, Rewind: s.audience.forgetPart,
	})
	return s, nil
}

func (s *Service) isLocal(server id.Server) bool { return s.servers.IsLocal(server) }

// Run evaluates and sends until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	defer s.web.CloseIdleConnections()
	var others sync.WaitGroup
	defer others.Wait()
	for _, subscribe := range []func() (*bus.Subscription, error){
		func() (*bus.Subscription, error) { return s.bus.SubscribePush(s.wake) },
		func() (*bus.Subscription, error) {
			return s.bus.SubscribePushers(func(_ uint32, users []id.User) {
				others.Go(func() { s.gained(ctx, users) })
			})
		},
		func() (*bus.Subscription, error) {
			return s.bus.SubscribeUsers(func(m *logv1.UserChanges) {
				for _, u := range m.Users {
					s.audience.touched(id.User(u.UserId))
				}
			})
		},
	} {
		sub, err := subscribe()
		if err != nil {
			return fmt.Errorf("push: %w", err)
		}
		defer func() { _ = sub.Stop() }() // fails only if the connection is closed
	}
	defer s.bus.OnReconnect(s.audience.forgetAll)()
	others.Go(func() { s.looks(ctx) })
	s.follow.Run(ctx)
	return nil
}

// Drain gives the partitions to other workers.
func (s *Service) Drain(ctx context.Context) error { return s.follow.Drain(ctx) }

// wake lets the owner of a partition send what waits for the pushers of some users.
func (s *Service) wake(part uint32, users []id.User) {
	if part >= s.shards.P() {
		return
	}
	if b, ours := s.follow.Get(part); ours {
		b.wake(users...)
	}
}

// gained notes that users have new pushers.
func (s *Service) gained(ctx context.Context, users []id.User) {
	for _, u := range users {
		joined, err := s.users.JoinedRooms(ctx, u)
		if err != nil {
			s.log.Debug("rooms of a user with a new pusher", "err", err)
			s.audience.forgetAll() // they are found when they are needed
			return
		}
		keys := make([]roomdb.RoomKey, len(joined))
		for i, r := range joined {
			keys[i] = roomdb.RoomKey{Part: r.Part, NID: r.NID}
		}
		s.audience.gained(u, keys)
	}
}

// looks finds what waits although no hint came, and what is due again.
func (s *Service) looks(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, b := range s.follow.All() {
			b.lookSoon()
		}
		s.gateways.look()
	}
}

// rowsByShard groups rows by the shard of their user.
func (s *Service) rowsByShard(rows []row) map[*pgxpool.Pool][]row {
	out := make(map[*pgxpool.Pool][]row)
	for _, r := range rows {
		pool := s.shards.For(partition.Of(string(r.user)))
		out[pool] = append(out[pool], r)
	}
	return out
}

func unique(users []id.User) []id.User {
	users = slices.Clone(users)
	slices.Sort(users)
	return slices.Compact(users)
}

func forEach(rows pgx.Rows, into []any, fn func()) error {
	_, err := pgx.ForEachRow(rows, into, func() error { fn(); return nil })
	return err
}
