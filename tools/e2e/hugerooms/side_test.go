package hugerooms

import (
	"fmt"
	"testing"
	"time"

	"hanse/tools/cluster"
	"hanse/tools/hugeroom/peer"
	"hanse/tools/loadgen/measure"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/mxclient"
)

// side is people who write in a room beside the one that is tormented, in the same partition.
type side struct {
	t       *testing.T
	cluster *cluster.Cluster
	room    string
	people  []*mxclient.Client
	runs    int
	sends   map[string]*measure.Recorder // by what happened meanwhile
}

// newSide makes a room beside another one.
func newSide(t *testing.T, c *cluster.Cluster, of string, people []*mxclient.Client) *side {
	t.Helper()
	return &side{t: t, cluster: c, room: neighbour(t, of, people), people: people, sends: make(map[string]*measure.Recorder)}
}

// calm is how long the neighbour is watched at a time while nothing else happens.
func calm() time.Duration {
	if full {
		return 10 * time.Second
	}
	return 4 * time.Second
}

// stall is a send latency that no load of another room excuses.
const stall = 10 * time.Second

// The people of a side write at this rate, in sends a second, and so many at a time: a send that takes long must not be the
// reason why the next one does.
const besideRate, besideSenders = 20, 16

// warm lets connections be made and caches be filled.
func warm(sides ...*side) { meanwhile("warm", func() { pause(sides[0].t, calm()/4) }, sides...) }

// quiet measures what a send takes while nothing happens: before each thing that it is compared with, as other work on the
// machine comes and goes.
func quiet(sides ...*side) {
	meanwhile("quiet", func() { pause(sides[0].t, calm()) }, sides...)
}

// meanwhile lets the people of all sides write while something happens, and notes under its name what a send took; the
// books must be exact.
func meanwhile(what string, happens func(), sides ...*side) {
	traffic := make([]*scenario.Traffic, len(sides))
	clusters := make([]*cluster.Cluster, len(sides))
	for i, s := range sides {
		s.t.Helper()
		s.runs++
		var err error
		traffic[i], err = scenario.StartTraffic(s.t.Context(), scenario.TrafficConfig{Rooms: []scenario.Room{{ID: s.room, Users: s.people}},
			Senders: besideSenders, Rate: besideRate, Run: fmt.Sprint(s.t.Name(), s.runs)})
		if err != nil {
			s.t.Fatal(err)
		}
		clusters[i] = s.cluster
	}
	t := sides[0].t
	begin, before := time.Now(), spent(t, clusters...)
	happens()
	t.Logf("%s: %s, %s", what, since(begin), spent(t, clusters...).since(before))
	for i, s := range sides {
		s.stop(what, traffic[i])
	}
}

func (s *side) stop(what string, traffic *scenario.Traffic) {
	s.t.Helper()
	out, err := traffic.Stop(s.t.Context(), patience())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := out.Verdict.Err(); err != nil {
		s.t.Error(err)
	}
	if len(out.Errors) > 0 {
		s.t.Errorf("failed requests in the neighbour room: %v", out.Errors)
	}
	if s.sends[what] == nil {
		s.sends[what] = &measure.Recorder{}
	}
	s.sends[what].Include(out.Sends)
	for _, l := range out.Latencies {
		s.t.Logf("neighbour room of %s, %s: %s p50 %.0f ms, p90 %.0f, p99 %.0f, max %.0f (%d)", s.cluster.ServerName, what, l.Name, l.P50, l.P90, l.P99, l.Max, l.Count)
		if l.Name == "send" && l.Max > float64(stall.Milliseconds()) {
			s.t.Errorf("a send in the neighbour room took %.0f ms", l.Max)
		}
	}
}

// compare logs what sends took in all times of each kind, and of all kinds, beside what they took in quiet ones.
func (s *side) compare(kinds ...string) {
	quiet := s.sends["quiet"].Summary("")
	if len(kinds) > 1 {
		all := &measure.Recorder{}
		for _, what := range kinds {
			all.Include(s.sends[what])
		}
		s.sends["all of that"] = all
		kinds = append(kinds, "all of that")
	}
	for _, what := range kinds {
		busy := s.sends[what].Summary("")
		s.t.Logf("p99 of a send in the neighbour room of %s: %.1f ms quiet (%d), %.1f ms in %s (%d), %.1f times; p50 %.1f and %.1f ms", s.cluster.ServerName,
			quiet.P99, quiet.Count, busy.P99, what, busy.Count, busy.P99/quiet.P99, quiet.P50, busy.P50)
	}
}

func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// asked logs what the servers of the room were asked.
func asked(t *testing.T, p *peer.Peer) {
	t.Helper()
	p.Booked(func(b *peer.Book) {
		t.Logf("asked: %v; bytes: %v; %d transactions with %d events to %d servers, %d refused", b.Requests, b.Bytes, b.Transactions, b.PDUs, len(b.Told), len(b.Refused))
	})
}
