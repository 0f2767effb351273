package appservice

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/bus"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/node"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// Deps is what the role works with.
type Deps struct {
	Shards   *pg.Shards
	Rooms    *roomdb.DB
	Users    *userdb.DB
	Bus      *bus.Bus
	Members  *partition.Members
	Services *appservice.Registry
	// Aliases returns the cluster's aliases of a room (roomdir.DB).
	Aliases func(context.Context, id.Room) ([]id.Alias, error)
	// Names are the server names of the cluster.
	Names      []id.Server
	Client     *asclient.Client
	Log        *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Service is the appservice role of one worker.
type Service struct {
	cfg      Config
	shards   *pg.Shards
	rooms    *roomdb.DB
	users    *userdb.DB
	bus      *bus.Bus
	registry *appservice.Registry
	names    []id.Server
	aliases  func(context.Context, id.Room) ([]id.Alias, error)
	client   *asclient.Client
	log      *slog.Logger
	metrics  *metrics
	slots    *slots
	scans    chan struct{} // services for which the log is read
	follow   *follow.Follower[*box]
	interest *interest
	ear      *ear
	queued   atomic.Int64 // bytes that wait in memory

	wanted atomic.Pointer[wanted]

	mu        sync.Mutex
	held      map[uint32]bool // partitions whose services count for interest
	following bool
	draining  bool
}

// wanted are the services that want to be told anything, by the partition of their ids.
type wanted struct {
	byPart map[uint32][]*appservice.Service
}

func (w *wanted) has(part uint32) bool { return len(w.byPart[part]) > 0 }

// New assembles the role; it does nothing before Run.
func New(cfg Config, d Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, shards: d.Shards, rooms: d.Rooms, users: d.Users, bus: d.Bus, registry: d.Services, names: d.Names, aliases: d.Aliases,
		client: d.Client, log: d.Log, slots: newSlots(cfg.Requests), scans: make(chan struct{}, scansAtOnce), held: make(map[uint32]bool)}
	s.ear = newEar(s)
	s.interest = newInterest(d.Rooms, d.Aliases, d.Names, d.Shards.P(), cfg.Rooms)
	s.look()
	s.follow = follow.New(follow.Config[*box]{
		Role: node.RoleAppservice, Tables: "appservice", Reach: follow.WholeLog, FromHead: true,
		Wanted: func(part uint32) bool { return s.wanted.Load().has(part) },
		Shards: d.Shards, Bus: d.Bus, Members: d.Members, Source: d.Rooms, Log: d.Log,
		Open: s.open, Plan: s.plan, Rewind: s.interest.forgetPart,
	})
	s.metrics = newMetrics(d.Registerer, s)
	return s, nil
}

// look takes over what is registered.
func (s *Service) look() {
	w := &wanted{byPart: make(map[uint32][]*appservice.Service)}
	for _, one := range s.registry.Current().All() {
		if one.URL != "" {
			part := partition.Of(one.ID)
			w.byPart[part] = append(w.byPart[part], one)
		}
	}
	s.wanted.Store(w)
}

// Run sends until ctx ends. While no service is registered that wants to be told anything, it reads no log.
func (s *Service) Run(ctx context.Context) error {
	defer s.client.CloseIdle()
	var others sync.WaitGroup
	defer others.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	some := make(chan struct{})
	others.Go(func() { s.registrations(ctx, some) })
	select {
	case <-ctx.Done():
		return nil
	case <-some:
	}
	for _, subscribe := range []func() (*bus.Subscription, error){
		func() (*bus.Subscription, error) { return s.bus.SubscribeAppservice(s.revive) },
		func() (*bus.Subscription, error) { return s.bus.SubscribeAliases(s.interest.forgetRoom) },
		func() (*bus.Subscription, error) { return s.bus.SubscribeTyping(s.ear.heardTyping) },
		func() (*bus.Subscription, error) { return s.bus.SubscribePresence(s.ear.heardPresence) },
		func() (*bus.Subscription, error) { return s.bus.SubscribeUsers(s.heardUsers) },
	} {
		sub, err := subscribe()
		if err != nil {
			return fmt.Errorf("appservice: %w", err)
		}
		defer func() { _ = sub.Stop() }() // fails only if the connection is closed
	}
	defer s.bus.OnReconnect(s.lookForDevices)()
	others.Go(func() { s.ear.run(ctx) })
	others.Go(func() { s.looks(ctx) })
	if s.begin() {
		s.follow.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// registrations follows what is registered. It closes some when there is a service that wants to be told anything.
func (s *Service) registrations(ctx context.Context, some chan<- struct{}) {
	for {
		changed := s.registry.Changed()
		s.look()
		for _, b := range s.follow.All() {
			b.registered()
		}
		s.rematch()
		s.follow.Again()
		if some != nil && len(s.wanted.Load().byPart) > 0 {
			close(some)
			some = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// begin says whether the log is to be followed: not if the worker ends already.
func (s *Service) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.following = !s.draining
	return s.following
}

// Drain gives the partitions to other workers.
func (s *Service) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	following := s.following
	s.mu.Unlock()
	if !following {
		return nil
	}
	return s.follow.Drain(ctx)
}

// hold notes whether the services of a partition are this worker's.
func (s *Service) hold(part uint32, ours bool) {
	s.mu.Lock()
	if ours {
		s.held[part] = true
	} else {
		delete(s.held, part)
	}
	s.mu.Unlock()
	s.rematch()
}

// rematch makes interest that of the services which are this worker's.
func (s *Service) rematch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.wanted.Load()
	var ours []*appservice.Service
	for part := range s.held {
		ours = append(ours, w.byPart[part]...)
	}
	slices.SortFunc(ours, func(a, b *appservice.Service) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	if slices.Equal(ours, s.interest.match.Load().Services()) {
		return
	}
	s.interest.match.Store(appservice.NewMatcher(ours))
}

// revive tries a service that has failed at once: it has shown itself.
func (s *Service) revive(service string) {
	if b, ours := s.follow.Get(partition.Of(service)); ours {
		if one := b.stream(service); one != nil {
			one.revive()
		}
	}
}

// lookEvery is how often all users with devices are looked at: a hint may have been lost.
const lookEvery = 10 * time.Minute

// heardUsers hears whose streams have moved: of users of services, for whom there may be to-device messages.
func (s *Service) heardUsers(changes *logv1.UserChanges) {
	m := s.interest.match.Load()
	if !beside(m) {
		return
	}
	for _, u := range changes.Users {
		user := id.User(u.UserId)
		for _, i := range ownOf(m, user) {
			service := m.Services()[i].ID
			if b, ours := s.follow.Get(partition.Of(service)); ours {
				if one := b.stream(service); one != nil {
					one.poke(user)
				}
			}
		}
	}
}

// lookForDevices has all users with devices looked at.
func (s *Service) lookForDevices() {
	for _, b := range s.follow.All() {
		for _, one := range b.all() {
			one.poke()
		}
	}
}

func (s *Service) looks(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.lookForDevices()
		}
	}
}
