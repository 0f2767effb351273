package presence

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

// bus is what was told.
type bus struct {
	mu    sync.Mutex
	heard []*logv1.Presence
}

func (b *bus) PublishPresence(p *logv1.Presence) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard = append(b.heard, proto.CloneOf(p))
	return nil
}

// loud returns what others were told, as state and status.
func (b *bus) loud() (told []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.heard {
		if !p.Quiet {
			told = append(told, p.Presence+" "+p.StatusMsg)
		}
	}
	return told
}

func newStores(t *testing.T, n int) (*miniredis.Miniredis, *bus, []*Store) {
	srv, b := miniredis.RunT(t), new(bus)
	var stores []*Store
	for range n {
		c := redis.NewClient(&redis.Options{Addr: srv.Addr(), MaxRetries: -1})
		t.Cleanup(func() { _ = c.Close() }) // of a test that is over
		stores = append(stores, New(c, b))
	}
	return srv, b, stores
}

const (
	anna  = id.User("@a:x.example")
	lease = time.Minute
)

func (s *Store) must(t *testing.T, heard *logv1.Presence, c Change) *logv1.Presence {
	t.Helper()
	p, err := s.Change(t.Context(), anna, heard, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func poll(device id.Device, set string) Change { return Poll(device, set, time.Now(), lease) }

// Client-server API, "Presence": everybody sees what was set last; without Redis those who listen hear of it still.
func TestStore(t *testing.T) {
	srv, b, stores := newStores(t, 1)
	s, ctx := stores[0], t.Context()
	if _, err := s.Get(ctx, anna); !errors.Is(err, ErrUnknown) {
		t.Errorf("before anything was set: %v", err)
	}
	p := s.must(t, nil, Put("D", Online, "here"))
	got, err := s.Get(ctx, anna)
	if err != nil || !proto.Equal(p, got) || got.Presence != Online || got.StatusMsg != "here" || !got.CurrentlyActive || len(b.heard) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, garbage := range []string{"\xff\xff", "", "\x0a\x0c@a:x.example"} {
		if err := srv.Set(key("@b:x.example"), garbage); err != nil {
			t.Fatal(err)
		}
		many, err := s.GetMany(ctx, []id.User{anna, "@b:x.example", "@c:x.example"})
		if err != nil || len(many) != 1 || many[anna] == nil {
			t.Errorf("with garbage %q: %v, %v", garbage, many, err)
		}
	}
	srv.SetError("down")
	if now, err := s.Change(ctx, anna, p, Put("D", Unavailable, "away")); err == nil || now.Presence != Unavailable || len(b.heard) != 2 {
		t.Errorf("without Redis: %v %v, told %v", now, err, b.heard)
	}
	srv.SetError("")
	if _, err := s.Change(ctx, anna, p, Put("D", Unavailable, "")); !errors.Is(err, errResting) || len(b.heard) != 3 {
		t.Errorf("a Redis that did not answer is asked again at once: %v", err)
	}
	if Valid("asleep") || !Valid(Busy) {
		t.Error("states")
	}
}

// Client-server API, "Presence", and set_presence of /sync: a user is what the most present of the devices is, whichever
// polled last, at whichever worker. Who does not change is not told of again.
func TestDevices(t *testing.T) {
	_, b, s := newStores(t, 2)
	for i := range 10 {
		s[i%2].must(t, nil, poll("PHONE", Online))
		s[(i+1)%2].must(t, nil, poll("DESK", Unavailable))
	}
	if told := b.loud(); !slices.Equal(told, []string{"online "}) || len(b.heard) != 2 {
		t.Errorf("told %v, in all %v", told, b.heard)
	}
	phone := s[0].must(t, nil, Look).Devices[0].UntilMs
	for range 2 { // two workers see that it has gone
		s[0].must(t, nil, Leave("PHONE", phone))
		s[1].must(t, nil, Leave("PHONE", phone))
	}
	desk := s[0].must(t, nil, Look).Devices[0].UntilMs
	s[1].must(t, nil, Leave("DESK", desk-1)) // a worker that does not know of the last poll
	s[1].must(t, nil, Leave("DESK", desk))
	if told := b.loud(); !slices.Equal(told, []string{"online ", "unavailable ", "offline "}) {
		t.Errorf("told %v", told)
	}
}

// MSC3026: a poll does not end busy, of no device; busy goes before online.
func TestBusy(t *testing.T) {
	_, b, stores := newStores(t, 1)
	s := stores[0]
	s.must(t, nil, poll("A", Online))
	s.must(t, nil, Put("B", Busy, "in a call"))
	s.must(t, nil, poll("A", Online))
	p := s.must(t, nil, poll("B", Online))
	if p.Presence != Busy || p.CurrentlyActive {
		t.Errorf("after polls: %v", p)
	}
	p = s.must(t, nil, Leave("B", Device(p, "B").UntilMs))
	if d := Device(p, "B"); p.Presence != Busy || time.UnixMilli(d.UntilMs).Before(time.Now().Add(BusyFor/2)) {
		t.Errorf("a busy device that does not poll: %v", p)
	}
	if p = s.must(t, nil, Put("B", Unavailable, "in a call")); p.Presence != Online || p.StatusMsg != "in a call" {
		t.Errorf("who is busy no longer: %v", p)
	}
	if told := b.loud(); !slices.Equal(told, []string{"online ", "busy in a call", "online in a call"}) {
		t.Errorf("told %v", told)
	}
}

// Client-server API, PUT /presence/{userId}/status: polls, of this device and of others, leave the status as it is, also
// at a worker that has not heard of it; another PUT without one takes it back.
func TestStatus(t *testing.T) {
	_, _, s := newStores(t, 2)
	old := s[0].must(t, nil, poll("A", Online))
	s[1].must(t, nil, Put("A", Unavailable, "at sea"))
	for _, device := range []id.Device{"A", "B"} {
		if p := s[0].must(t, old, poll(device, Online)); p.StatusMsg != "at sea" || p.Presence != Online {
			t.Errorf("after a poll of %s: %v", device, p)
		}
	}
	if p := s[1].must(t, nil, Put("B", Online, "")); p.StatusMsg != "" {
		t.Errorf("after a PUT without a status: %v", p)
	}
	if p := s[1].must(t, nil, Put("A", Offline, "")); p.Presence != Online {
		t.Errorf("one device is offline: %v", p)
	}
	if p := s[1].must(t, nil, Keep("A", Online, time.Now(), lease)); Device(p, "A").Presence != Offline {
		t.Errorf("a poll that goes on overrides what was put since: %v", p)
	}
}

// No change is lost, whoever makes one at the same time.
func TestChangesAtOnce(t *testing.T) {
	_, b, s := newStores(t, 4)
	var all sync.WaitGroup
	for w, store := range s {
		all.Go(func() {
			for i := range 5 {
				for {
					_, err := store.Change(t.Context(), anna, nil, poll(id.Device(fmt.Sprint(w, i)), Online))
					if err == nil {
						break
					}
					if !errors.Is(err, errBusy) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	p := s[0].must(t, nil, Look)
	if len(p.Devices) != 20 {
		t.Errorf("%d devices, want 20", len(p.Devices))
	}
	if told := b.loud(); len(told) != 1 {
		t.Errorf("told %v", told)
	}
	versions := map[int64]bool{}
	for _, p := range b.heard {
		versions[p.VersionMs] = true
	}
	if len(versions) != len(b.heard) {
		t.Errorf("%d messages have %d versions", len(b.heard), len(versions))
	}
	// More devices than are kept push out the least present ones.
	for i := range 10 {
		p = s[0].must(t, nil, poll(id.Device(fmt.Sprint("more", i)), Unavailable))
	}
	if len(p.Devices) != maxDevices || p.Presence != Online {
		t.Errorf("%d devices, %s", len(p.Devices), p.Presence)
	}
}

// Redis may be wiped: who changes something begins with what was heard, and other devices have time to say that they
// are there.
func TestWipe(t *testing.T) {
	srv, b, s := newStores(t, 2)
	s[0].must(t, nil, Put("A", Online, "here"))
	heard := s[0].must(t, nil, poll("A", Online))
	for _, d := range heard.Devices {
		d.UntilMs = 1 // it was renewed since, which nobody else was told of
	}
	srv.FlushAll()
	p := s[1].must(t, heard, poll("B", Unavailable))
	if p.Presence != Online || p.StatusMsg != "here" || p.VersionMs <= heard.VersionMs {
		t.Errorf("after a wipe: %v", p)
	}
	srv.FlushAll()
	s[1].must(t, p, Leave("B", Device(p, "B").UntilMs)) // its worker still knows
	if p = s[1].must(t, nil, Look); len(p.Devices) != 1 || p.Devices[0].DeviceId != "A" {
		t.Errorf("after another: %v", p)
	}
	if told := b.loud(); !slices.Equal(told, []string{"online here"}) {
		t.Errorf("told %v", told)
	}
}

// Client-server API, "Last active ago" and "Idle timeout": currently active for a minute, unavailable after five; who is
// not heard of counts no longer. Others are told of each, and before they take a user for gone.
func TestTime(t *testing.T) {
	start := time.UnixMilli(1_000_000)
	p, tell := apply(&logv1.Presence{UserId: string(anna), Presence: Offline}, Poll("A", Online, start, 2*time.Hour), start)
	if !tell || !p.CurrentlyActive || p.LastActiveMs != start.UnixMilli() || Due(p) != start.Add(2*time.Hour) {
		t.Fatalf("at first: %v", p)
	}
	for _, c := range []struct {
		after    time.Duration
		presence string
		active   bool
		tell     bool
	}{
		{59 * time.Second, Online, true, false}, {time.Minute, Online, false, true}, {5 * time.Minute, Online, false, false},
		{5*time.Minute + time.Second, Unavailable, false, true}, {30 * time.Minute, Unavailable, false, false}, // told 25 minutes ago, less a second
		{5*time.Minute + time.Second + PingEvery, Unavailable, false, true}, {40 * time.Minute, Unavailable, false, false},
		{2 * time.Hour, Offline, false, true}, {3 * time.Hour, Offline, false, false},
	} {
		p, tell = apply(p, Look, start.Add(c.after))
		if p.Presence != c.presence || p.CurrentlyActive != c.active || tell != c.tell || p.LastActiveMs != start.UnixMilli() {
			t.Errorf("after %s: told %t, %v", c.after, tell, p)
		}
	}
	p, _ = apply(p, Poll("A", Online, start.Add(4*time.Hour), lease), start.Add(4*time.Hour))
	if ago := Ago(p, start.Add(5*time.Hour)); ago != ActiveFor || !p.CurrentlyActive {
		t.Errorf("active %s ago, %v", ago, p)
	}
	p.CurrentlyActive = false
	if ago := Ago(p, start.Add(5*time.Hour)); ago != time.Hour {
		t.Errorf("active %s ago", ago)
	}
}

// A user of another server is what that says, until it has not said it for half an hour.
func TestRemote(t *testing.T) {
	start := time.UnixMilli(1_000_000)
	told := Told(&logv1.Presence{Presence: Online, StatusMsg: "x", LastActiveMs: 5, CurrentlyActive: true})
	p, tell := apply(&logv1.Presence{UserId: "@r:y.example", Presence: Offline}, told, start)
	if !tell || p.Presence != Online || p.StatusMsg != "x" || p.LastActiveMs != 5 || p.Local || Due(p) != start.Add(RemoteFor) {
		t.Errorf("%v", p)
	}
	if p, tell = apply(p, told, start.Add(20*time.Minute)); tell || Due(p) != start.Add(50*time.Minute) {
		t.Errorf("told again: %v", p)
	}
	if p, tell = apply(p, Look, start.Add(50*time.Minute)); tell || p.Presence != Online {
		t.Errorf("just in time: %v", p)
	}
	if p, tell = apply(p, Look, start.Add(51*time.Minute)); !tell || p.Presence != Offline || p.CurrentlyActive {
		t.Errorf("not heard of: %v", p)
	}
}

// A worker that starts reads everybody, up to a bound.
func TestEach(t *testing.T) {
	srv, _, stores := newStores(t, 1)
	s := stores[0]
	for i := range 30 {
		if _, err := s.Change(t.Context(), id.User(fmt.Sprintf("@u%d:x.example", i)), nil, poll("D", Online)); err != nil {
			t.Fatal(err)
		}
	}
	if err := srv.Set("hanse:limit:x", "1"); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{10, 1000} {
		seen := map[string]bool{}
		if err := s.Each(t.Context(), limit, func(p *logv1.Presence) { seen[p.UserId] = true }); err != nil || len(seen) != min(limit, 30) {
			t.Errorf("at most %d: %d, %v", limit, len(seen), err)
		}
	}
	srv.SetError("down")
	if err := s.Each(t.Context(), 10, func(*logv1.Presence) {}); err == nil {
		t.Error("no error without Redis")
	}
}
