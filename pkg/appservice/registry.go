package appservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/metric"
	"hanse/pkg/retries"
)

// reloadEvery is how often workers look at the files and the store, whatever the bus says.
const reloadEvery = 10 * time.Second

// Deps is what a Registry reads.
type Deps struct {
	Store *Store
	// Files are the paths of registrations.
	Files []string
	// Names are those that the cluster serves, the default one first.
	Names []id.Server
	// Accounts makes the accounts of senders.
	Accounts Accounts
	Bus      *bus.Bus
	Log      *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// Registry holds the present snapshot of the application services. It is safe for concurrent use. A nil Registry has none.
type Registry struct {
	d     Deps
	every time.Duration

	mu      sync.Mutex // for who replaces the snapshot
	current atomic.Pointer[Snapshot]
	changed atomic.Pointer[chan struct{}]
	seen    int64 // version of the store in the snapshot
	content []byte

	stale prometheus.Gauge
	count prometheus.Gauge
}

var none = &Snapshot{}

// Of returns a registry of the given services that never changes. It panics if they do not go together.
func Of(services ...*Service) *Registry {
	s, err := newSnapshot(1, services)
	if err != nil {
		panic(err)
	}
	r := new(Registry)
	r.set(s)
	return r
}

// Open reads all registrations. Run keeps them up to date.
func Open(ctx context.Context, d Deps) (*Registry, error) {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{d: d, every: reloadEvery, seen: -1,
		stale: metric.Register(d.Registerer, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_appservice_registrations_stale",
			Help: "1 while this worker cannot take over the registrations of application services as they are now: a file or the store is wrong or cannot be read."})),
		count: metric.Register(d.Registerer, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_appservice_registrations",
			Help: "Application services that this worker knows."}))}
	r.set(none)
	if err := r.Reload(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Run takes over changes until the context ends.
func (r *Registry) Run(ctx context.Context) error {
	if r.d.Store == nil {
		<-ctx.Done()
		return nil
	}
	wake := make(chan struct{}, 1)
	poke := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	sub, err := r.d.Bus.SubscribeAppservices(poke)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Stop() }() // the connection may be gone already
	defer r.d.Bus.OnReconnect(poke)()
	t := time.NewTicker(r.every)
	defer t.Stop()
	reloads := retries.Log{To: r.d.Log, What: "reading the registrations of application services"}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-t.C:
		}
		err := r.Reload(ctx)
		if ctx.Err() != nil {
			return nil
		}
		reloads.Note(err)
		r.stale.Set(0)
		if err != nil {
			r.stale.Set(1)
		}
	}
}

// Reload reads the files and the store, and replaces the snapshot if they have changed.
func (r *Registry) Reload(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	version, err := r.d.Store.version(ctx)
	if err != nil {
		return err
	}
	files, content, err := readFiles(r.d.Files)
	if err != nil {
		return err
	}
	if version == r.seen && bytes.Equal(content, r.content) {
		return nil
	}
	services, err := parseFiles(files, r.d.Names)
	if err != nil {
		return err
	}
	version, stored, err := r.d.Store.list(ctx)
	if err != nil {
		return err
	}
	services = append(services, r.served(stored)...)
	old := r.Current()
	for i, s := range services {
		services[i] = s.orSame(old.ByID(s.ID))
	}
	next, err := newSnapshot(old.version+1, services)
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(slices.Clone(services), func(s *Service) bool { return old.ByID(s.ID) == s })
	if err := ensureSenders(ctx, r.d.Store.shards, r.d.Accounts, fresh, next); err != nil {
		return err
	}
	r.seen, r.content = version, content
	r.count.Set(float64(len(services)))
	if len(fresh) > 0 || len(services) != len(old.services) {
		r.log(old, next)
		r.set(next)
	}
	return nil
}

// log says what has changed.
func (r *Registry) log(old, next *Snapshot) {
	for _, s := range next.services {
		switch was := old.byID[s.ID]; {
		case was == nil:
			r.d.Log.Info("application service", "id", s.ID, "server", s.Server, "origin", s.Origin)
		case was != s:
			r.d.Log.Info("application service has changed", "id", s.ID, "server", s.Server, "origin", s.Origin)
		}
	}
	for _, s := range old.services {
		if next.byID[s.ID] == nil {
			r.d.Log.Info("application service is gone", "id", s.ID)
		}
	}
}

// served leaves out the stored services of names that the configuration does not have any more.
func (r *Registry) served(stored []*Service) []*Service {
	return slices.DeleteFunc(stored, func(s *Service) bool {
		gone := !slices.Contains(r.d.Names, s.Server)
		if gone {
			r.d.Log.Warn("application service is left out: its server name is none of the configured ones", "id", s.ID, "server", s.Server)
		}
		return gone
	})
}

// orSame returns the old service if it is the same in all that was registered.
func (s *Service) orSame(old *Service) *Service {
	if old == nil || old.Origin != s.Origin {
		return s
	}
	a, errA := s.stored()
	b, errB := old.stored()
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		return s
	}
	return old
}

func (r *Registry) set(s *Snapshot) {
	next := make(chan struct{})
	r.current.Store(s)
	if before := r.changed.Swap(&next); before != nil {
		close(*before)
	}
}

// Current returns the present snapshot.
func (r *Registry) Current() *Snapshot {
	if r == nil {
		return none
	}
	return r.current.Load()
}

// Changed returns a channel that is closed at the next change. Who must not miss one takes it before Current.
func (r *Registry) Changed() <-chan struct{} {
	if r == nil {
		return nil
	}
	return *r.changed.Load()
}

// All returns the services of the present snapshot, by id.
func (r *Registry) All() []*Service { return r.Current().All() }

// ByToken returns the service that an access token belongs to, or nil.
func (r *Registry) ByToken(token string) *Service { return r.Current().ByToken(token) }

// OwnerOfUser returns the service that has the user id to itself, or nil.
func (r *Registry) OwnerOfUser(user id.User) *Service { return r.Current().OwnerOfUser(user) }

// OwnerOfAlias returns the service that has the alias to itself, or nil.
func (r *Registry) OwnerOfAlias(alias id.Alias) *Service { return r.Current().OwnerOfAlias(alias) }

type file struct {
	path string
	data []byte
}

// readFiles returns the files, and all of their bytes to compare.
func readFiles(paths []string) (files []file, all []byte, err error) {
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("application service: %w", err)
		}
		files = append(files, file{path, data})
		all = fmt.Appendf(all, "%d ", len(data))
		all = append(all, data...)
	}
	return files, all, nil
}

// parseFiles reports all files that are wrong.
func parseFiles(files []file, names []id.Server) ([]*Service, error) {
	var services []*Service
	var errs []error
	for _, f := range files {
		s, err := Parse(f.data, names...)
		if err != nil {
			errs = append(errs, fmt.Errorf("application service %s: %w", f.path, err))
			continue
		}
		s.Origin = f.path
		services = append(services, s)
	}
	return services, errors.Join(errs...)
}
