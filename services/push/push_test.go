package push

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/notify"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
)

func people(n int) (users []id.User) {
	for i := range n {
		users = append(users, id.User(fmt.Sprintf("@u%d:%s", i, ours)))
	}
	return users
}

// Two workers share the work. While one is killed, another one comes and one drains, each notification arrives: once, but for those
// that were on their way when the worker was killed.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	users := people(40)
	for _, u := range users {
		w.pusher(u, g.address())
	}
	var rooms []*room
	for i := range 8 {
		rooms = append(rooms, w.room(fmt.Sprint("r", i)))
	}
	one, two := w.start("one"), w.start("two")
	w.share(one, two)
	want := make(map[id.User][]string)
	send := func() {
		t.Helper()
		for _, r := range rooms {
			for i, e := range r.invite(users...) {
				want[users[i]] = append(want[users[i]], e)
			}
		}
	}
	arrived := func() {
		t.Helper()
		for _, u := range users {
			w.until(fmt.Sprintf("%s was not notified of all: %d of %d", u, len(g.of(u)), len(want[u])), func() bool {
				got := g.of(u)
				return !slices.ContainsFunc(want[u], func(e string) bool { return !slices.Contains(got, e) })
			})
		}
	}
	send()
	arrived()
	send()
	one.Kill()
	send()
	arrived()
	three := w.start("three")
	w.share(two, three)
	send()
	two.Members.SetState(partition.Draining)
	if err := two.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	send()
	arrived()
	twice, all := 0, 0
	for _, u := range users {
		got := g.of(u)
		slices.Sort(got)
		all += len(got)
		twice += len(got) - len(slices.Compact(got))
	}
	// One request at a time is on its way to each pusher, at each of the three times that partitions move. And a worker that is killed
	// between queueing a run of the log and storing how far it has got leaves that run to be queued again: one for each room here.
	if twice > len(users)*(3+len(rooms)) {
		t.Errorf("%d of %d notifications came twice", twice, all)
	}
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
}

// Push Gateway API, "Homeserver behaviour": what fails is tried again. A pusher whose gateway was away gets one notification a room
// afterwards, and meanwhile no more than that waits.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	users := people(5)
	for _, u := range users {
		w.pusher(u, g.address())
	}
	rooms := []*room{w.room("a"), w.room("b"), w.room("c")}
	k := w.start("one")
	w.share(k)
	g.fails(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "away", http.StatusServiceUnavailable) })
	last := make(map[string]string) // event by user and room
	for range 10 {
		for _, r := range rooms {
			for i, e := range r.invite(users...) {
				last[string(users[i])+r.id] = e
			}
		}
		w.until("nothing failed", func() bool {
			return w.number(`SELECT count(*) FROM pusher WHERE failing_since > 0`) == int64(len(users))
		})
	}
	newest := slices.Collect(maps.Values(last))
	w.until("not everything was evaluated", func() bool {
		return w.number(`SELECT count(*) FROM push_pending WHERE event_id = ANY($1)`, newest) == int64(len(newest))
	})
	w.until("more waits than one a room", func() bool { return w.number(`SELECT count(*) FROM push_pending`) <= int64(len(users)*len(rooms)) })
	g.works()
	for _, u := range users {
		w.until("not notified after the outage", func() bool { return len(g.of(u)) >= len(rooms) })
	}
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
	for _, u := range users {
		got := g.of(u)
		if len(got) != len(rooms) {
			t.Errorf("%s was told %d events", u, len(got))
		}
		for _, r := range rooms {
			if !slices.Contains(got, last[string(u)+r.id]) {
				t.Errorf("%s was not told the newest of %s", u, r.id)
			}
		}
	}
	if n := w.number(`SELECT count(*) FROM pusher WHERE failures > 0 OR failing_since > 0`); n != 0 {
		t.Errorf("%d pushers still count as failing", n)
	}
}

// A gateway that hangs keeps its own requests only.
func TestHangingGateway(t *testing.T) {
	w := newWorld(t)
	hangs, good := w.gateway(), w.gateway()
	release := make(chan struct{})
	defer close(release)
	var inside atomic.Int64
	hangs.fails(func(_ http.ResponseWriter, r *http.Request) {
		inside.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	users := people(60)
	for _, u := range users[:50] {
		w.pusher(u, hangs.address())
	}
	for _, u := range users[50:] {
		w.pusher(u, good.address())
	}
	k := w.start("one", func(c *Config) { c.Requests, c.PerGateway, c.Timeout = 40, 5, time.Minute })
	w.share(k)
	r := w.room("r")
	sent := r.invite(users...)
	w.until("the gateway does not hang", func() bool { return inside.Load() >= 5 })
	for i, u := range users[50:] {
		w.until(fmt.Sprintf("%s waits for another gateway", u), func() bool { return slices.Contains(good.of(u), sent[50+i]) })
	}
	if n := inside.Load(); n > 5 {
		t.Errorf("%d requests to one gateway", n)
	}
}

// Push Gateway API: "rejected". The pusher goes, with all that waits for it.
func TestRejected(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	users := people(2)
	for _, u := range users {
		w.pusher(u, g.address())
	}
	k := w.start("one")
	w.share(k)
	g.fails(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rejected := `[]`
		if strings.Contains(string(body), string(users[0])) {
			rejected = `["other","` + string(users[0]) + `"]`
		}
		_, _ = io.WriteString(rw, `{"rejected":`+rejected+`}`)
	})
	w.room("a").invite(users...)
	w.room("b").invite(users...)
	w.until("the pusher is still there", func() bool { return w.number(`SELECT count(*) FROM pusher WHERE user_id = $1`, users[0]) == 0 })
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
	if w.number(`SELECT count(*) FROM pusher`) != 1 {
		t.Error("the other pusher went, too")
	}
}

// What gateways answer that are overloaded, broken or hostile: the pusher waits, and nobody else is asked.
func TestBadAnswers(t *testing.T) {
	w := newWorld(t)
	k := w.start("one", func(c *Config) { c.Timeout = 5 * time.Second })
	w.share(k)
	var reached atomic.Int64
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer inside.Close()
	now := time.Now()
	for i, c := range []struct {
		name    string
		url     string // empty: a gateway that answers
		answer  http.HandlerFunc
		atLeast time.Duration
	}{
		{"429", "", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", "1800")
			rw.WriteHeader(http.StatusTooManyRequests)
		}, 29 * time.Minute},
		{"redirect", "", func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, inside.URL+"/_matrix/push/v1/notify", http.StatusTemporaryRedirect)
		}, 0},
		{"huge", "", func(rw http.ResponseWriter, _ *http.Request) {
			for range 1 << 20 {
				if _, err := io.WriteString(rw, strings.Repeat("x", 64)); err != nil {
					return
				}
			}
		}, 0},
		{"slow", "", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then the server sees that the client has gone
			<-r.Context().Done()
		}, 0},
		{"gone", "", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusGone) }, 0},
		{"inside of the network", "http://127.0.0.2:1/_matrix/push/v1/notify", nil, 29 * time.Minute},
		{"metadata", "http://169.254.169.254/_matrix/push/v1/notify", nil, 29 * time.Minute},
		{"no address", "https://%zz/_matrix/push/v1/notify", nil, 29 * time.Minute},
	} {
		user := id.User(fmt.Sprintf("@bad%d:%s", i, ours))
		url := c.url
		if url == "" {
			g := w.gateway()
			g.fails(c.answer)
			url = g.address()
		}
		w.pusher(user, url)
		w.room(fmt.Sprint("r", i)).invite(user)
		w.until(c.name+": not noted", func() bool { return w.number(`SELECT failures FROM pusher WHERE user_id = $1`, user) > 0 })
		if next := time.UnixMilli(w.number(`SELECT next_try FROM pusher WHERE user_id = $1`, user)); next.Before(now.Add(c.atLeast)) {
			t.Errorf("%s: tried again at %v", c.name, next)
		}
		if w.number(`SELECT count(*) FROM push_pending WHERE user_id = $1`, user) != 1 {
			t.Errorf("%s: what waits is lost", c.name)
		}
	}
	if reached.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// What is older than a day is not sent, and a pusher that is turned off or gone leaves nothing behind.
func TestGivenUp(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	users := people(3)
	g.fails(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) })
	for _, u := range users {
		w.pusher(u, g.address())
	}
	k := w.start("one")
	w.share(k)
	w.room("a").invite(users...)
	w.until("nothing waits", func() bool { return w.number(`SELECT count(*) FROM pusher WHERE failures > 0`) == 3 })
	w.exec(0, `UPDATE push_pending SET created_ts = created_ts - 25 * 3600000 WHERE user_id = $1`, users[0])
	w.exec(0, `UPDATE pusher SET enabled = false WHERE user_id = $1`, users[1])
	w.exec(0, `DELETE FROM pusher WHERE user_id = $1`, users[2])
	g.works()
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
	for _, u := range users {
		if got := g.of(u); len(got) != 0 {
			t.Errorf("%s was told %v", u, got)
		}
	}
}

// BenchmarkEvaluate evaluates a message in a room of 10,000 members. All of them have the default rules: in one room nobody has a
// pusher, in the other one everybody, of whom the message mentions one.
func BenchmarkEvaluate(b *testing.B) {
	const members = 10_000
	rules, _ := roomversion.Get("10")
	pdu, err := event.ParseTrusted(fmt.Appendf(nil, `{"auth_events":[],"content":{"body":"hello","m.mentions":{"user_ids":["@u7:%s"]},"msgtype":"m.text"},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":1,"prev_events":[],"room_id":"!r:%s","sender":"@a:%s","signatures":{},"type":"m.room.message"}`, ours, ours, ours), "$e", rules)
	if err != nil {
		b.Fatal(err)
	}
	key := roomdb.RoomKey{Part: 1, NID: 1}
	for name, users := range map[string][]id.User{"nobody has a pusher": nil, "everybody has one": people(members)} {
		b.Run(name, func(b *testing.B) {
			s := &Service{servers: local{}}
			s.audience = newAudience(nil, nil, s.isLocal, 1<<20)
			slices.Sort(users)
			c := &crowd{users: users, loaded: time.Now().Add(time.Hour), room: &notify.Room{Members: members}}
			s.audience.put(key, c)
			for _, u := range users {
				s.audience.users[u] = &listener{rules: notify.NewRules(u, nil, nil, nil), read: true}
			}
			told := 0
			b.ReportAllocs()
			for b.Loop() {
				told = 0
				j := &judge{s: s, pdu: pdu, view: pushrule.NewView(pdu), tell: func(id.User, pushrule.Outcome) { told++ }}
				if err := j.crowd(b.Context(), key, c); err != nil {
					b.Fatal(err)
				}
			}
			if told != len(users) {
				b.Fatal(told)
			}
		})
	}
}

// A gateway that refuses one notification for its content gets the next ones all the same.
func TestRefusedForItsContent(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	user := people(1)[0]
	w.pusher(user, g.address())
	k := w.start("one")
	w.share(k)
	rooms := []*room{w.room("a"), w.room("b"), w.room("c")}
	var tried atomic.Int64
	g.fails(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), rooms[0].id) {
			tried.Add(1)
			http.Error(rw, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		g.record(rw, r)
	})
	rooms[0].invite(user)
	w.until("nothing was refused", func() bool { return tried.Load() > 0 })
	want := slices.Concat(rooms[1].invite(user), rooms[2].invite(user))
	w.until("the next ones wait for the one that is refused", func() bool { return len(g.of(user)) == len(want) })
	same := g.of(user)
	slices.Sort(same)
	slices.Sort(want)
	if !slices.Equal(same, want) || tried.Load() != maxRefusals {
		t.Errorf("told %v, want %v; %d attempts", same, want, tried.Load())
	}
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
	if n := w.number(`SELECT count(*) FROM pusher WHERE failures > 0 OR failing_since > 0`); n != 0 {
		t.Error("the pusher still counts as failing")
	}
}

// Client-server API, "Room history visibility": nobody is notified of what they may not see. Here that is an event without a state
// before it; the first event of a room needs none.
func TestOnlyWhatOneMaySee(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	users := people(2)
	for _, u := range users {
		w.pusher(u, g.address())
	}
	k := w.start("one")
	w.share(k)
	r := w.room("r")
	put := func(user id.User, kind string, stateKey *string) string {
		t.Helper()
		nid := w.nid.Add(1)
		event, part := fmt.Sprintf("$%d", nid), partition.Of(string(user))
		w.exec(r.part, `INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, auth, prev, json)
VALUES ($1, $2, $3, $4, $2, 1, $5, $6, $7, 1, '{}', '{}', $8)`, int32(r.part), nid, r.nid, event, kind, stateKey, "@a:"+ours,
			fmt.Appendf(nil, `{"auth_events":[],"content":{},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":1,"prev_events":[],"room_id":%q,"sender":"@a:%s","signatures":{},"type":%q%s}`,
				r.id, ours, kind, map[bool]string{true: `,"state_key":""`}[stateKey != nil]))
		w.exec(part, `INSERT INTO push_pending (part, user_id, app_id, pushkey, room_part, pos, room_id, event_id, event_nid, created_ts)
VALUES ($1, $2, 'app', $2, $3, $4, $5, $6, $4, $7)`, int32(part), user, int32(r.part), nid, r.id, event, time.Now().UnixMilli())
		return event
	}
	put(users[0], "m.room.message", nil)
	first := put(users[1], "m.room.create", new(string))
	for _, u := range users {
		if err := w.bus.WakePush(partition.Of(string(u)), []id.User{u}); err != nil {
			t.Fatal(err)
		}
	}
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
	if got := g.of(users[0]); len(got) > 0 {
		t.Errorf("notified of %v", got)
	}
	if got := g.of(users[1]); !slices.Equal(got, []string{first}) {
		t.Errorf("notified of %v, want the first event", got)
	}
}

// The pushers that a gateway's pause makes wait do not count as failing after it, even if their badge stays as it is.
func TestAfterPause(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	users := people(5)
	for _, u := range users {
		w.pusher(u, g.address())
	}
	w.exec(0, `UPDATE pusher SET data = convert_to(jsonb_set(convert_from(data, 'UTF8')::jsonb, '{org.matrix.msc4076.disable_badge_count}', 'true')::text, 'UTF8')`)
	k := w.start("one", func(c *Config) { c.PerGateway = 1 })
	w.share(k)
	g.fails(func(rw http.ResponseWriter, _ *http.Request) {
		w.until("the others do not wait", func() bool {
			k.gateways.mu.Lock()
			defer k.gateways.mu.Unlock()
			return len(k.gateways.known[g.URL].crowd) >= len(users)-1
		})
		g.works()
		rw.WriteHeader(http.StatusServiceUnavailable)
	})
	w.room("r").invite(users...)
	w.until("nobody waits", func() bool {
		return w.number(`SELECT count(*) FROM pusher WHERE failing_since > 0 AND failures = 0`) == int64(len(users)-1)
	})
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
	if n := w.number(`SELECT count(*) FROM pusher WHERE failures > 0 OR failing_since > 0`); n != 0 {
		t.Errorf("%d pushers still count as failing", n)
	}
}

// A run of the log that is planned again notifies nobody again, and what notifies very many is stored in pieces.
func TestPlannedAgain(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	users := people(3)
	for _, u := range users {
		w.pusher(u, g.address())
	}
	k := w.start("one")
	w.share(k)
	r := w.room("r")
	var q queued
	for i, u := range slices.Concat(people(2 * queueAtOnce)[3:], users[:1]) { // of whom one has a pusher
		q.rows = append(q.rows, row{user: u, key: roomdb.RoomKey{Part: r.part, NID: r.nid}, room: r.id, event: "$x", eventNID: int64(i), pos: 1 << 40, tweaks: plainTweaks})
	}
	// A row of an event that does not exist goes soon: what was stored is noted elsewhere.
	for _, pool := range w.shards.All() {
		_, err := pool.Exec(t.Context(), `CREATE TABLE noted (user_id text);
			CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO noted VALUES (NEW.user_id); RETURN NEW; END $$;
			CREATE TRIGGER note AFTER INSERT ON push_unread FOR EACH ROW EXECUTE FUNCTION note()`)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := k.queue(t.Context(), &q); err != nil {
		t.Fatal(err)
	}
	if n := w.number(`SELECT count(*) FROM noted WHERE user_id = $1`, users[0]); n == 0 {
		t.Error("the last piece is not stored")
	}
	sent := r.invite(users...)
	for i, u := range users {
		w.until("not notified", func() bool { return slices.Contains(g.of(u), sent[i]) })
	}
	w.until("rows are left", func() bool { return w.number(`SELECT count(*) FROM push_pending`) == 0 })
	entries, err := k.rooms.ReadLog(t.Context(), r.part, 1, 100)
	if err != nil || len(entries) != len(users) {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	b, _ := k.follow.Get(r.part)
	w.until("how far the log was planned is not stored", func() bool { return b.Reached(r.part) == entries[len(entries)-1].Pos })
	if _, err := k.plan(t.Context(), bus.Delivery{Part: r.part, Entries: entries}); err != nil {
		t.Fatal(err)
	}
	if n := w.number(`SELECT count(*) FROM push_pending`); n != 0 {
		t.Errorf("%d notifications again", n)
	}
}
