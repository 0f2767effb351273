package scenario

import (
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hanse/pkg/await"
	"hanse/tools/loadgen/account"
	"hanse/tools/loadgen/measure"
	"hanse/tools/loadgen/report"
	"hanse/tools/loadgen/stage"
	"hanse/tools/mxclient"
	"hanse/tools/mxclient/mxtest"
)

func newEnv(t *testing.T, srv *mxtest.Server) *Env {
	t.Helper()
	tr := mxclient.NewTransport(0, nil)
	t.Cleanup(tr.CloseIdleConnections)
	c := mxclient.New(srv.URL, mxclient.Options{Transport: tr, Retry: mxclient.Retry{Attempts: 4, Wait: time.Millisecond}})
	st, err := stage.Open(t.Context(), c, stage.Config{
		Server: srv.URL, Secret: mxtest.Secret, Prefix: "lg", Password: "pw", File: filepath.Join(t.TempDir(), "state"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Env{Client: c, Stage: st, Server: srv.URL, Run: "r1", Meter: &measure.Meter{}}
}

func run(t *testing.T, srv *mxtest.Server, s Scenario) *report.Report {
	t.Helper()
	r, err := s.Run(t.Context(), newEnv(t, srv))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	t.Log(b.String())
	return r
}

func deliver() *Deliver {
	return &Deliver{
		Rooms: 2, Members: 4, Senders: 4, Count: 120, Size: 80, Filter: LazyFilter,
		PollTimeout: 5 * time.Second, Drain: 2 * time.Minute, First: 0.5,
	}
}

func TestScenarios(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    Scenario
		ops  int64
	}{
		{"send", &Send{Senders: 3, Rooms: 2, Members: 3, Count: 60, Size: 200, Verify: true}, 60},
		{"send at a rate", &Send{Senders: 3, Rooms: 1, Members: 3, Count: 20, Rate: 200, Verify: true}, 20},
		{"deliver", deliver(), 120},
		{"join", &Join{Users: 20, Concurrency: 4}, 20},
		{"login", &Login{Users: 3, Count: 10, Concurrency: 2}, 10},
		{"register", &Register{Count: 10, Concurrency: 2}, 10},
		{"create-room", &CreateRoom{Count: 5, Concurrency: 2, Preset: "private_chat", Invite: 1, Encrypted: true}, 5},
		{"initial-sync", &InitialSync{Rooms: 3, Members: 2, Times: 4, Concurrency: 1, Messages: 2, Filter: "none"}, 4},
		{"idle-poll", &IdlePoll{Users: 10, Rooms: 1, Hold: time.Millisecond, PollTimeout: time.Minute}, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, mxtest.New(t), tt.s)
			if r.Ops != tt.ops || r.Failed() {
				t.Errorf("%d operations, errors %v", r.Ops, r.Errors)
			}
			if tt.name != "idle-poll" && r.Latencies[0].Count != int(tt.ops) {
				t.Errorf("latencies: %+v", r.Latencies)
			}
		})
	}
}

func TestSenders(t *testing.T) {
	r := run(t, mxtest.New(t), &Senders{Senders: []int{1, 3}, Rooms: 1, Members: 3, Duration: 100 * time.Millisecond, Size: 100})
	if len(r.Runs) != 2 || r.Failed() {
		t.Fatalf("%+v", r)
	}
	for _, one := range r.Runs {
		if one.Ops == 0 || one.Verdict.Acked != one.Ops {
			t.Errorf("%s: %d sends, %s", one.Label, one.Ops, one.Verdict.Summary())
		}
	}
}

func TestDeliverIsExactThroughRetriesAndGaps(t *testing.T) {
	srv := mxtest.New(t)
	srv.LoseAnswers(3)
	d := deliver()
	d.Count = 400 // bursts beyond what a timeline shows
	d.Senders = 16
	r := run(t, srv, d)
	if r.Failed() || r.Verdict.Deliveries != 4*400 {
		t.Error(r.Verdict.Err(), r.Errors)
	}
}

// What a server does wrong must be seen.
func TestDeliverFindsDamage(t *testing.T) {
	text := func(e map[string]any) bool { return e["type"] == "m.room.message" }
	for _, tt := range []struct {
		name   string
		damage func(events []map[string]any) []map[string]any
		found  func(r *report.Report) []account.Fault
		drain  time.Duration
	}{
		// What is lost never comes: the wait for it is short, and what comes late counts as lost, too.
		{"lost", func(ev []map[string]any) []map[string]any { return ev[1:] },
			func(r *report.Report) []account.Fault { return r.Verdict.Lost }, 100 * time.Millisecond},
		{"duplicated", func(ev []map[string]any) []map[string]any { return append(slices.Clone(ev), ev[0]) },
			func(r *report.Report) []account.Fault { return r.Verdict.Duplicated }, 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := mxtest.New(t)
			var n atomic.Int64
			var damaged string
			srv.Damage(func(user string, ev []map[string]any) []map[string]any {
				if strings.HasPrefix(user, "@lg-u-1:") && text(ev[0]) && n.Add(1) == 1 {
					damaged, _ = ev[0]["event_id"].(string)
					return tt.damage(ev)
				}
				return ev
			})
			d := deliver()
			d.Drain = tt.drain
			r := run(t, srv, d)
			found := tt.found(r)
			is := func(f account.Fault) bool { return f.EventID == damaged && strings.HasPrefix(f.User, "@lg-u-1:") }
			if !slices.ContainsFunc(found, is) || tt.name == "duplicated" && len(found) != 1 || !r.Failed() {
				t.Errorf("%s is not found: %s", damaged, r.Verdict.Summary())
			}
		})
	}
}

func TestTrafficThroughFaults(t *testing.T) {
	srv := mxtest.New(t)
	env := newEnv(t, srv)
	rooms, err := env.cast(t.Context(), 2, 3, false)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := StartTraffic(t.Context(), TrafficConfig{
		Run: "x", Senders: 4,
		Rooms: []Room{{ID: rooms[0].id, Users: rooms[0].users}, {ID: rooms[1].id, Users: rooms[1].users}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, harm := range []func(){func() {}, func() { srv.LoseAnswers(8) }, func() { srv.Refuse(8) }} {
		harm()
		_, from, _ := tr.Counts()
		await.True(t, 2*time.Minute, "50 more sends", func() bool {
			_, acked, _ := tr.Counts()
			return acked >= from+50
		})
	}
	out, err := tr.Stop(t.Context(), 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Verdict.Err(); err != nil {
		t.Error(err)
	}
	if out.Verdict.Deliveries < 3*150 || len(out.Latencies) != 2 {
		t.Errorf("%s, errors %v", out.Verdict.Summary(), out.Errors)
	}
}

func TestGrowthHasAColumnForEachSize(t *testing.T) {
	g := &Growth{Members: []int{3, 6}, Pollers: 2, Senders: 2, Rate: 100, Duration: 200 * time.Millisecond, Filter: LazyFilter}
	r := run(t, mxtest.New(t), g)
	if len(r.Runs) != 2 || r.Failed() || r.Runs[1].Verdict.Deliveries == 0 {
		t.Errorf("%+v", r)
	}
}

func TestRateLimitsAreReported(t *testing.T) {
	srv := mxtest.New(t)
	env := newEnv(t, srv)
	if _, err := env.Stage.Users(t.Context(), "u", 1); err != nil {
		t.Fatal(err)
	}
	srv.Refuse(2)
	r, err := (&Login{Users: 1, Count: 3, Concurrency: 1}).Run(t.Context(), env)
	if err != nil || r.RateLimited != 2 || r.Ops != 3 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestUniqueFilter(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  `{"room":{"timeline":{"not_types":["loadgen.x"]}}}`,
		`{"room":{"timeline":{"limit":5}}}`: `{"room":{"timeline":{"limit":5,"not_types":["loadgen.x"]}}}`,
		`{"room":{"timeline":{"not_types":["a"]}}}`: `{"room":{"timeline":{"not_types":["a","loadgen.x"]}}}`,
	} {
		if got, err := unique(in, "x"); err != nil || got != want {
			t.Errorf("%s: %s %v", in, got, err)
		}
	}
	if _, err := unique("[]", "x"); err == nil {
		t.Error("an array is no filter")
	}
}
