package partition

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/bus"
)

// State says whether a worker takes new work.
type State string

// A worker is Starting until its servers listen, Ready while it works, Draining when it hands over.
const (
	Starting State = "starting"
	Ready    State = "ready"
	Draining State = "draining"
)

// Member is a worker: one process.
type Member struct {
	// ID names the worker; letters, digits, "-", "_" and ".". It should survive restarts: then its
	// partitions come back to it.
	ID string `json:"id"`
	// Addr is where its gRPC server is reached by the other workers.
	Addr  string   `json:"addr"`
	Roles []string `json:"roles"`
	State State    `json:"state"`
	// Started tells two processes with the same ID apart: milliseconds since 1970.
	Started int64 `json:"started"`
}

// Has reports whether the worker has a role.
func (m Member) Has(role string) bool { return slices.Contains(m.Roles, role) }

// Timing of the membership. Tests use shorter ones.
type Timing struct {
	Beat time.Duration // between heartbeats
	TTL  time.Duration // after which a silent member is dead
}

// DefaultTiming is what clusters use.
var DefaultTiming = Timing{Beat: 1500 * time.Millisecond, TTL: 6 * time.Second}

// Bucket is the name of the key-value bucket of the members.
const Bucket = "hanse_members"

// MembersConfig is what Join needs.
type MembersConfig struct {
	Bus    *bus.Bus
	Self   Member
	Timing Timing // zero: DefaultTiming
	// Replicas of the bucket in a clustered NATS (default 1).
	Replicas   int
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Members is this worker's view of who is there. The view survives NATS: it stays as it was while
// NATS is away.
type Members struct {
	cfg     MembersConfig
	js      jetstream.JetStream
	beat    chan struct{} // publish now
	rewind  chan struct{} // read the bucket anew
	cancel  context.CancelFunc
	unknown *time.Timer // ends the wait for NATS
	done    sync.WaitGroup
	alive   prometheus.Gauge

	mu      sync.Mutex
	self    Member
	known   bool // the members that were there before have been heard of
	view    view
	byRole  map[string][]Member // ready members, ordered by id; rebuilt with the view
	changed chan struct{}
	left    bool
}

var validID = regexp.MustCompile(`^[A-Za-z0-9_-]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?$`)

// Join announces this worker and starts to watch the others. It does not wait for NATS. The worker
// counts as Starting until SetState, and until it knows who else is there: a worker that believes to be alone takes all partitions.
// If NATS does not say who is there it goes on without, after a while.
func Join(cfg MembersConfig) (*Members, error) {
	if !validID.MatchString(cfg.Self.ID) || strings.Contains(cfg.Self.ID, "..") {
		return nil, fmt.Errorf("worker id %q: only letters, digits, '-', '_' and '.'", cfg.Self.ID)
	}
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Self.Started == 0 {
		cfg.Self.Started = time.Now().UnixMilli()
	}
	if cfg.Self.State == "" {
		cfg.Self.State = Starting
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Members{
		cfg: cfg, js: cfg.Bus.JetStream(), self: cfg.Self, cancel: cancel,
		beat: make(chan struct{}, 1), rewind: make(chan struct{}, 1), changed: make(chan struct{}),
		view:  newView(cfg.Timing.TTL, 2*cfg.Timing.Beat+cfg.Timing.Beat/2),
		alive: gauge(cfg.Registerer, "hanse_members", "Workers that are alive, as this one sees it."),
	}
	m.mu.Lock()
	m.view.self(m.announced())
	m.rebuild()
	m.mu.Unlock()
	m.unknown = time.AfterFunc(2*cfg.Timing.TTL, m.learn)
	unwatch := cfg.Bus.OnReconnect(func() { poke(m.rewind); poke(m.beat) })
	m.done.Go(func() { m.heartbeats(ctx) })
	m.done.Go(func() {
		defer unwatch()
		m.watch(ctx)
	})
	return m, nil
}

// Self is this worker as it announces itself.
func (m *Members) Self() Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.announced()
}

// announced is what others are told. m.mu is held.
func (m *Members) announced() Member {
	self := m.self
	if self.State == Ready && !m.known {
		self.State = Starting
	}
	return self
}

// learn notes that all members are in the view that were there when this worker joined.
func (m *Members) learn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known {
		return
	}
	m.known = true
	m.view.self(m.announced())
	m.rebuild()
	poke(m.beat)
}

// Known reports whether the view has the members that were there when this worker joined. Changed tells when that becomes true.
func (m *Members) Known() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known
}

// SetState changes what this worker announces, at once.
func (m *Members) SetState(s State) {
	m.mu.Lock()
	m.self.State = s
	m.view.self(m.announced())
	m.rebuild()
	m.mu.Unlock()
	poke(m.beat)
}

// Of returns the ready members that have a role, ordered by id. The slice must not be changed.
func (m *Members) Of(role string) []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byRole[role]
}

// All returns the members that are alive, in any state, ordered by id.
func (m *Members) All() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.alive()
}

// Alive reports whether there is a member with this address.
func (m *Members) Alive(addr string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.hasAddr(addr)
}

// OwnerOf returns the ready member that rendezvous hashing picks for a partition among those that
// have a role. For the role room that is a hint only (pins, and the row, come before it); for other
// roles it is how they share work.
func (m *Members) OwnerOf(part uint32, role string) (Member, bool) {
	ready := m.Of(role)
	ids := make([]string, len(ready))
	for i := range ready {
		ids[i] = ready[i].ID
	}
	i := rendezvous(part, ids)
	if i < 0 {
		return Member{}, false
	}
	return ready[i], true
}

// Mine reports whether OwnerOf is this worker.
func (m *Members) Mine(part uint32, role string) bool {
	o, ok := m.OwnerOf(part, role)
	return ok && o.ID == m.cfg.Self.ID
}

// Changed returns a channel that is closed at the next change of the view. Take it before reading
// the view.
func (m *Members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Suspect tells the view that a member's process is gone (its address refuses connections). It is
// left out until it is heard of again.
func (m *Members) Suspect(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.view.suspect(id) {
		m.cfg.Log.Info("member is gone", "worker", id)
		m.rebuild()
	}
}

// Leave removes this worker from the bucket and stops. Others see it at once.
func (m *Members) Leave(ctx context.Context) error {
	m.mu.Lock()
	left := m.left
	m.left = true
	m.mu.Unlock()
	if left {
		return nil
	}
	m.cancel()
	m.unknown.Stop()
	m.done.Wait()
	kv, err := m.js.KeyValue(ctx, Bucket)
	if err == nil {
		err = m.withdraw(ctx, kv)
	}
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

// withdraw deletes this worker's entry, whichever heartbeat wrote it: the answer to the last one may be lost. The entry of a successor
// with the same id stays.
func (m *Members) withdraw(ctx context.Context, kv jetstream.KeyValue) error {
	e, err := kv.Get(ctx, m.self.ID)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var mem Member
	if err := json.Unmarshal(e.Value(), &mem); err != nil || mem.Started != m.self.Started {
		return nil //nolint:nilerr // not written by this worker
	}
	return kv.Delete(ctx, m.self.ID, jetstream.LastRevision(e.Revision()))
}

// rebuild derives what readers ask for, and wakes who waits for changes. m.mu is held.
func (m *Members) rebuild() {
	alive := m.view.alive()
	m.alive.Set(float64(len(alive)))
	m.byRole = make(map[string][]Member)
	for _, mem := range alive {
		if mem.State != Ready {
			continue
		}
		for _, role := range mem.Roles {
			m.byRole[role] = append(m.byRole[role], mem)
		}
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// apply takes one entry of the bucket into the view.
func (m *Members) apply(e jetstream.KeyValueEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	if e.Operation() != jetstream.KeyValuePut {
		changed = m.view.remove(e.Key(), e.Created())
	} else {
		var mem Member
		if err := json.Unmarshal(e.Value(), &mem); err != nil || mem.ID != e.Key() {
			m.cfg.Log.Warn("bad entry in the members bucket", "key", e.Key(), "err", err)
			return
		}
		if mem.ID == m.self.ID && mem.Started != m.self.Started {
			m.cfg.Log.Warn("another process uses this worker's id", "worker", mem.ID)
		}
		changed = m.view.hear(mem, e.Created(), mem.ID == m.self.ID && mem.Started == m.self.Started)
	}
	if changed {
		m.rebuild()
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
