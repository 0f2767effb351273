package sync

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	presencestore "hanse/pkg/presence"
	logv1 "hanse/proto/log/v1"
)

// presenceWorld is sync workers, of which only what they know of presence runs, over one Redis.
type presenceWorld struct {
	t     *testing.T
	redis *miniredis.Miniredis
	away  bool // the bus loses everything

	mu      sync.Mutex
	workers []*presence
	told    []string
	wakes   int
}

// PublishPresence implements presencestore.Bus.
func (w *presenceWorld) PublishPresence(p *logv1.Presence) error {
	w.mu.Lock()
	if !p.Quiet {
		w.told = append(w.told, p.Presence+" "+p.StatusMsg)
	}
	workers := slices.Clone(w.workers)
	w.mu.Unlock()
	if !w.away {
		for _, ps := range workers {
			ps.heard(proto.CloneOf(p))
		}
	}
	return nil
}

func (w *presenceWorld) store() *presencestore.Store {
	c := redis.NewClient(&redis.Options{Addr: w.redis.Addr(), MaxRetries: -1})
	w.t.Cleanup(func() { _ = c.Close() }) // of a test that is over
	return presencestore.New(c, w)
}

func (w *presenceWorld) worker() *presence {
	ps := &presence{cfg: Defaults(), eph: newEphemeral(fmt.Sprint(len(w.workers))), store: w.store(), log: slog.New(slog.DiscardHandler),
		users: make(map[id.User]*presenceOf), loaded: make(chan struct{}), wake: func(id.User) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.wakes++
		}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.workers = append(w.workers, ps)
	return ps
}

func newPresenceWorld(t *testing.T) (w *presenceWorld, one, two *presence) {
	w = &presenceWorld{t: t, redis: miniredis.RunT(t)}
	return w, w.worker(), w.worker()
}

func (w *presenceWorld) wants(told ...string) {
	w.t.Helper()
	if !slices.Equal(w.told, told) {
		w.t.Errorf("told %q, want %q", w.told, told)
	}
}

const anna = id.User("@a:x.example")

// poll is a poll that is answered at once.
func (ps *presence) poll(t *testing.T, device id.Device, set string) {
	t.Helper()
	ps.begin(t.Context(), anna, device, set)()
}

// later is when a device that does not poll any more has gone.
func later() time.Time { return time.Now().Add(Defaults().PresenceTimeout + time.Second) }

// Client-server API, "Presence", and set_presence of /sync: two devices that say different things, each at both workers,
// wake nobody but once.
func TestPresenceOfDevices(t *testing.T) {
	w, one, two := newPresenceWorld(t)
	for range 5 {
		for _, ps := range []*presence{one, two} {
			ps.poll(t, "PHONE", "unavailable")
			ps.poll(t, "DESK", "")
			ps.poll(t, "BOT", "offline")
		}
	}
	w.wants("unavailable ", "online ")
	if w.wakes != 4 {
		t.Errorf("%d wakes of two workers, want 4", w.wakes)
	}
}

// Client-server API, "Presence": who has stopped to poll is offline, which one worker tells. Who polls elsewhere, or waits
// in a long poll, is not.
func TestPresenceEnds(t *testing.T) {
	w, one, two := newPresenceWorld(t)
	one.poll(t, "PHONE", "")
	two.poll(t, "PHONE", "")
	one.sweep(t.Context(), later())
	w.wants("online ")
	end := two.begin(t.Context(), anna, "PHONE", "")
	two.sweep(t.Context(), later())
	w.wants("online ")
	end()
	two.sweep(t.Context(), later())
	one.sweep(t.Context(), later())
	w.wants("online ", "offline ")
	one.poll(t, "PHONE", "unavailable")
	w.wants("online ", "offline ", "unavailable ")
}

// Client-server API, PUT /presence/{userId}/status: a worker that has not heard of a status does not take it back.
func TestPresenceKeepsStatus(t *testing.T) {
	w, one, two := newPresenceWorld(t)
	one.poll(t, "PHONE", "")
	w.away = true
	if _, err := w.store().Change(t.Context(), anna, nil, presencestore.Put("PHONE", "online", "at sea")); err != nil {
		t.Fatal(err)
	}
	w.away = false
	one.poll(t, "PHONE", "unavailable")
	two.poll(t, "DESK", "")
	w.wants("online ", "online at sea", "unavailable at sea", "online at sea")
	// The next poll takes back what PUT has said of the device, as it says something else (as with Synapse).
	if _, err := w.store().Change(t.Context(), anna, nil, presencestore.Put("DESK", "offline", "gone")); err != nil {
		t.Fatal(err)
	}
	end := two.begin(t.Context(), anna, "DESK", "")
	defer end()
	w.wants("online ", "online at sea", "unavailable at sea", "online at sea", "unavailable gone", "online gone")
}

// Two changes may be heard in the wrong order.
func TestPresenceOutOfOrder(t *testing.T) {
	_, one, _ := newPresenceWorld(t)
	one.heard(&logv1.Presence{UserId: string(anna), Presence: "offline", VersionMs: 5})
	one.heard(&logv1.Presence{UserId: string(anna), Presence: "online", VersionMs: 4})
	if got, _ := one.since(0, 1<<62); len(got) != 1 || got[0].state.Presence != "offline" {
		t.Errorf("%v", got)
	}
}

// Redis may be wiped: who is there says so again, and who goes is taken out; what the bus has lost is found in Redis.
func TestPresenceWithoutTruth(t *testing.T) {
	w, one, two := newPresenceWorld(t)
	defer one.begin(t.Context(), anna, "PHONE", "")()
	w.redis.FlushAll()
	one.sweep(t.Context(), time.Now().Add(renewEvery))
	if p, err := two.store.Get(t.Context(), anna); err != nil || p.Presence != "online" {
		t.Errorf("after a wipe: %v, %v", p, err)
	}
	w.redis.FlushAll()
	two.poll(t, "DESK", "unavailable")
	w.wants("online ")
	two.sweep(t.Context(), later())
	w.wants("online ")

	w.away = true
	if _, err := w.store().Change(t.Context(), anna, nil, presencestore.Put("PHONE", "busy", "")); err != nil {
		t.Fatal(err)
	}
	two.sweep(t.Context(), time.Now().Add(time.Hour))
	if got, _ := two.since(0, 1<<62); len(got) != 1 || got[0].state.Presence != "busy" {
		t.Errorf("the other worker knows %v", got)
	}
}

// What a worker that was killed leaves behind is taken out by another one, and told once.
func TestPresenceOfKilledWorker(t *testing.T) {
	w, one, two := newPresenceWorld(t)
	three := w.worker()
	one.cfg.PresenceTimeout = time.Millisecond - 2*renewEvery // what it says counts for a millisecond without it
	one.begin(t.Context(), anna, "PHONE", "")
	w.wants("online ")
	for now := time.Now(); len(w.told) == 1 && t.Context().Err() == nil; now = now.Add(lookEvery + time.Second) {
		var both sync.WaitGroup
		both.Go(func() { two.sweep(t.Context(), now) })
		both.Go(func() { three.sweep(t.Context(), now) })
		both.Wait()
	}
	w.wants("online ", "offline ")
}

// Client-server API, "Presence": a worker that starts knows who is there, and tells clients of other workers what happened
// since their tokens.
func TestPresenceAtStart(t *testing.T) {
	w, one, _ := newPresenceWorld(t)
	one.poll(t, "PHONE", "")
	theirs := one.eph.now()
	three := w.worker()
	if err := three.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	three.ready(t.Context())
	now := three.eph.now()
	got, _ := three.since(0, now.Counter)
	if len(got) != 1 || got[0].state.Presence != "online" || got[0].at > theirs.Counter {
		t.Errorf("known at start: %v", got)
	}
	three.poll(t, "DESK", "")
	w.wants("online ")
	w.redis.SetError("down")
	if err := w.worker().load(t.Context()); err == nil {
		t.Error("no error without Redis")
	}
}

// Who changed longest ago is forgotten if there are too many, but for those who poll here.
func TestPresenceIsBounded(t *testing.T) {
	_, one, _ := newPresenceWorld(t)
	defer one.begin(t.Context(), anna, "PHONE", "")()
	for i := range maxKnown + 10 {
		one.heard(&logv1.Presence{UserId: fmt.Sprintf("@u%d:y.example", i), Presence: "online", VersionMs: 1})
	}
	if one.known() != maxKnown || one.users[anna] == nil || one.users["@u0:y.example"] != nil {
		t.Errorf("%d users", one.known())
	}
	if got, more := one.since(0, 1<<62); len(got) != maxPresence || !more {
		t.Errorf("%d at once", len(got))
	}
}
