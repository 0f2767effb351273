package app_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"hanse/pkg/growth"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/services/app"
)

// process starts another process of a cluster, and returns where clients find it and what ends it.
func process(t *testing.T, cfg app.Config, name string, roles ...string) (url string, end func()) {
	t.Helper()
	ports := freePorts(t, 4)
	cfg.DataDir, cfg.WorkerID, cfg.Listen = t.TempDir(), name, app.Defaults().Listen
	cfg.Listen.Client.Address, cfg.Listen.Federation.Address = ports[0], ports[1]
	cfg.Listen.Monitoring.Address, cfg.Listen.GRPC.Address = ports[2], ports[3]
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := app.Run(ctx, &cfg, roles, "test", slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	end = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(end)
	eventually(t, name+" is ready", func() bool {
		resp, err := http.Get("http://" + ports[2] + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return "http://" + ports[0], end
}

// MSC4186, "Connections": between any two requests the worker ends, and Redis loses everything. Each event arrives, once, and no
// position is unknown.
func TestSlidingSurvivesItsWorkers(t *testing.T) {
	var cfg app.Config
	w := newWorldOf(t, [][]string{nil}, func(c *app.Config) { cfg = *c })
	opts, err := redis.ParseURL(cfg.Redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	store := redis.NewClient(opts)
	defer store.Close()
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	var rooms []string
	for range 6 {
		rooms = append(rooms, anna.create(object{"preset": "public_chat"}))
		bert.join(rooms[len(rooms)-1])
	}
	s := bert.slide(2, 20) // three of the rooms: others come and go
	s.extension("to_device", object{"enabled": true})
	told := make(map[string]int)
	want := make(map[string]bool)
	ask := func(worker int, retry bool) {
		url, end := process(t, cfg, fmt.Sprint("sync", worker), "sync")
		defer end()
		there := *s.person
		there.w = &world{urls: []string{url}, name: w.name}
		s.person = &there
		if retry { // the answer is lost
			s.ask(s.pos, 0).ok()
		}
		r := s.poll(0)
		for room := range r.get("rooms").Map() {
			v := slideRoom(r, room)
			for _, e := range v.Get("timeline").Array() {
				if id := e.Get("event_id").Str; want[id] {
					told[id]++
				}
			}
		}
		if err := store.FlushAll(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	ask(0, false)
	for i := range 5 {
		for n := range 3 {
			want[anna.say(rooms[(2*i+n)%len(rooms)], fmt.Sprint(i, n))] = true
		}
		ask(i+1, i%2 == 1)
	}
	s.list()["ranges"] = list{list{0, 99}}
	ask(9, false)
	for id := range want {
		if told[id] != 1 {
			t.Errorf("%s was told %d times", id, told[id])
		}
	}
}

// What sliding sync costs, whatever the number of rooms that the account is in: docs/sliding-sync.md.
func TestSlidingCostsNothing(t *testing.T) {
	counter := new(pgtest.Counter)
	var cfg app.Config
	// Only what answers runs: others work by the clock, and count too where a request is slow.
	w := newWorldOf(t, [][]string{{"client", "sync", "room"}}, func(c *app.Config) {
		c.PostgreSQL.Tracer, c.Client.Search.Enabled = counter, false
		cfg = *c
	})
	shards, err := pg.Open(context.Background(), cfg.PostgreSQL)
	if err != nil {
		t.Fatal(err)
	}
	defer shards.Close()
	const few, many = 100, 1000
	people := map[int]*person{}
	for _, n := range []int{few, many} {
		p := w.register(t, "reader")
		for range n {
			p.create(object{})
		}
		people[n] = p
	}
	state := []list{{"m.room.member", "$LAZY"}, {"m.room.member", "$ME"}, {"m.room.create", ""}, {"m.room.encryption", ""}, {"m.room.power_levels", ""}}
	of := func(s *slider, times int, op func(i int)) growth.Cost {
		op(-1)
		statements, rows := counter.Each(times, op)
		return growth.Cost{"statements": statements, "rows": rows}
	}
	growth.Flat(t, "a first window of 20 rooms", few, many, 1.3, func(n int) growth.Cost {
		s := people[n].slide(19, 1, state...)
		return of(s, 5, func(int) {
			if r := s.ask("", 0).ok(); len(r.get("rooms").Map()) != 20 || r.get("lists.all.count").Int() != int64(n) {
				t.Errorf("the first window: %s", r.raw)
			}
		})
	})
	growth.Flat(t, "a request without news", few, many, 1.3, func(n int) growth.Cost {
		s := people[n].slide(19, 1, state...)
		s.poll(0)
		cost := of(s, 10, func(int) { s.poll(time.Millisecond) })
		if cost["rows"] > 1 || cost["statements"] > 1 { // the user's position, with those of others
			t.Errorf("a request without news: %v", cost)
		}
		return cost
	})
	growth.Flat(t, "a message in a room that the client knows", few, many, 1.3, func(n int) growth.Cost {
		s := people[n].slide(many, 1)
		for len(s.events) < n {
			s.poll(0)
		}
		for s.poll(0); ; {
			if r := s.poll(time.Millisecond); len(r.get("rooms").Map()) == 0 {
				break
			}
		}
		room := people[n].create(object{})
		s.tells(room)
		return of(s, 10, func(i int) { s.sees(room, people[n].say(room, fmt.Sprint(i))) })
	})
	for _, n := range []int{few, many} {
		s := people[n].slide(2*many, 20, state...)
		s.body["conn_id"] = "all"
		for len(s.events) < n {
			s.poll(0)
		}
		var bytes int
		err := shards.For(partition.Of(people[n].id)).QueryRow(context.Background(), `SELECT octet_length(base) + octet_length(delta) + octet_length(next)
			FROM sliding_connection WHERE user_id = $1 AND conn_id = 'all'`, people[n].id).Scan(&bytes)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("a connection that knows %d rooms: %d bytes", n, bytes)
		if bytes > 24*n+1024 {
			t.Errorf("a connection that knows %d rooms has %d bytes", n, bytes)
		}
	}
}
