package hugerooms

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/tools/cluster"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/mxclient"
)

// Two clusters share a room of many members. They are cut apart and come together again and again, while people on both
// write, and change state such that one side's changes void the other's: after each time both have every message once,
// and the state that plain state resolution ("State resolution" of the room versions) makes of all events. A room in the
// same partition of each cluster goes on meanwhile.
func TestSplit(t *testing.T) {
	cfg := hugeroom.Scaled(size(t, 1500, 100_000))
	cfg.Servers, cfg.Seed = 12, 3 // most of them only have to be sent what the two clusters say
	p := serve(t, cfg, peer.Config{OmitMembers: true})
	var came arrivals
	other, err := newCluster(t.Context(), "other", "127.0.0.1", &came)
	if err != nil {
		t.Fatal(err)
	}
	s := &split{t: t, peer: p, room: string(roomID(t, p)), shores: []*shore{newShore(t, shared, "here", &sharedArrivals), newShore(t, other, "there", &came)}}
	s.enter()
	for _, sh := range s.shores {
		sh.reader = read(t, sh.admin, s.room)
		s.sides = append(s.sides, newSide(t, sh.cluster, s.room, sh.beside))
	}
	warm(s.sides...)
	quiet(s.sides...)
	s.talk("together")
	meanwhile("load without a split", func() { s.more(5); pause(t, calm()) }, s.sides...)
	s.silence()
	rounds := 2
	if full {
		rounds = 10
	}
	for round := range rounds {
		s.round(round)
	}
	for _, side := range s.sides {
		side.compare("load without a split", "a split", "healing")
	}
	for _, sh := range s.shores {
		t.Logf("%s: events of the other side, from arrival to delivery: %s", sh.name, quantiles(sh.delays))
		sh.reader.exact(t)
	}
	asked(t, p)
}

// split is a room of two clusters.
type split struct {
	t       *testing.T
	peer    *peer.Peer
	room    string
	shores  []*shore
	sides   []*side // the rooms beside it
	traffic []*scenario.Traffic
	touched []event.Tuple // state that the sides have changed
}

// shore is one of the two clusters, and its people.
type shore struct {
	cluster  *cluster.Cluster
	name     string
	admin    *mxclient.Client // has the power to change power levels
	deputy   *mxclient.Client // may ban
	talker   *mxclient.Client // has no power
	beside   []*mxclient.Client
	reader   *reader
	arrivals *arrivals
	delays   []time.Duration // from the arrival of the other side's events to their delivery
}

func newShore(t *testing.T, c *cluster.Cluster, name string, a *arrivals) *shore {
	t.Helper()
	users := register(t, c, name+"admin", name+"deputy", name+"talker", "beside"+name, "besides"+name)
	return &shore{cluster: c, name: name, admin: users[0], deputy: users[1], talker: users[2], beside: users[3:], arrivals: a}
}

// talkers are those who write all the time; nothing that happens takes that from them.
func (sh *shore) talkers() []*mxclient.Client { return []*mxclient.Client{sh.admin, sh.talker} }

// enter lets all join, the first through the room's servers and the others through the first cluster, and gives some of
// each side the power to change state.
func (s *split) enter() {
	t := s.t
	t.Helper()
	users := map[string]int{}
	for i, sh := range s.shores {
		for k, p := range []*mxclient.Client{sh.admin, sh.deputy, sh.talker} {
			via := s.shores[0].cluster.ServerName
			if i+k == 0 {
				via = string(s.peer.Resident())
			}
			begin := time.Now()
			// A server that has not all of the members yet lets nobody in.
			until(t, "join", func() error { _, err := p.Join(t.Context(), s.room, via); return err })
			t.Logf("%s joined in %s", p.UserID, since(begin))
		}
		users[sh.admin.UserID], users[sh.deputy.UserID] = 100, 50
	}
	until(t, "all at the room's servers", func() error {
		return s.peer.Room(func(r *hugeroom.Room) error {
			for _, sh := range s.shores {
				for _, p := range []*mxclient.Client{sh.admin, sh.deputy, sh.talker} {
					if !member(r, id.User(p.UserID)) {
						return fmt.Errorf("%s has not come", p.UserID)
					}
				}
			}
			return nil
		})
	})
	s.empower(users)
	want := s.expected()
	for _, sh := range s.shores {
		until(t, "the state before on "+sh.name, func() error { return s.has(sh, want) })
	}
	in(t, s.peer, func(r *hugeroom.Room) error {
		for _, sh := range s.shores {
			sh.arrivals.watch(r.Rules)
			t.Cleanup(sh.arrivals.ignore)
		}
		return nil
	})
	s.peer.Deafen(true) // what follows is between the clusters
}

func member(r *hugeroom.Room, u id.User) bool {
	m, err := r.Before(r.Ends()...)
	if err != nil {
		return false
	}
	e := r.Lookup(m).StateEvent("m.room.member", string(u))
	return e != nil && e.Membership() == "join"
}

// empower lets the room's creator give power to users.
func (s *split) empower(users map[string]int) {
	t := s.t
	t.Helper()
	var n int
	in(t, s.peer, func(r *hugeroom.Room) error {
		levels := r.PowerLevels(1)
		for u, level := range levels["users"].(map[id.User]int) {
			users[string(u)] = level
		}
		levels["users"] = users
		content, err := json.Marshal(levels)
		if err != nil {
			return err
		}
		key := ""
		n, err = r.Add(hugeroom.Action{Sender: r.Creator(), Type: "m.room.power_levels", StateKey: &key, Content: content}, r.Ends()...)
		return err
	})
	for _, sh := range s.shores {
		out, err := s.peer.Push(t.Context(), peer.Pushing{To: id.Server(sh.cluster.ServerName), Origin: s.peer.Resident()}, n)
		if err != nil || len(out.Refused) > 0 {
			t.Fatalf("power levels: %v, %v", out.Refused, err)
		}
	}
}

// talkRate is at what rate the people of each side write in the large room, in sends a second.
const talkRate = 10

// talk lets people of both sides write in the room.
func (s *split) talk(run string) {
	for _, sh := range s.shores {
		traffic, err := scenario.StartTraffic(s.t.Context(), scenario.TrafficConfig{Rooms: []scenario.Room{{ID: s.room, Users: sh.talkers()}},
			Senders: 2, Rate: talkRate, Run: run + sh.name})
		if err != nil {
			s.t.Fatal(err)
		}
		s.traffic = append(s.traffic, traffic)
	}
}

// silence ends what talk began.
func (s *split) silence() {
	t := s.t
	t.Helper()
	for _, traffic := range s.traffic {
		traffic.Silence()
	}
	begin := time.Now()
	for i, traffic := range s.traffic {
		out, err := traffic.Stop(t.Context(), patience())
		if err != nil {
			t.Fatal(err)
		}
		if err := out.Verdict.Err(); err != nil {
			t.Error(err)
		}
		if len(out.Errors) > 0 {
			t.Errorf("failed requests: %v", out.Errors)
		}
		for _, l := range out.Latencies {
			t.Logf("%s: %s in the large room p50 %.0f ms, p90 %.0f, p99 %.0f, max %.0f (%d)", s.shores[i].name, l.Name, l.P50, l.P90, l.P99, l.Max, l.Count)
		}
	}
	t.Logf("books read in %s", since(begin))
	s.traffic = nil
}

// round cuts the clusters apart, lets both go their way, heals, and compares.
func (s *split) round(n int) {
	t := s.t
	t.Helper()
	q := s.quarrel(n)
	quiet(s.sides...)
	s.talk(fmt.Sprint("split", n))
	s.more(5)
	s.cut(true)
	meanwhile("a split", func() {
		begin := time.Now()
		q.apart()
		pause(t, calm()-time.Since(begin)) // servers wait the longer with the next attempt the longer they were apart
	}, s.sides...)
	if s.same() == nil {
		t.Error("the sides were not apart")
	}
	var healed time.Time
	meanwhile("healing", func() {
		healed = time.Now()
		s.cut(false)
		until(t, "something of the other side", func() error {
			for _, sh := range s.shores {
				if len(sh.arrivals.since(healed)) == 0 {
					return errors.New("nothing has come to " + sh.name)
				}
			}
			return nil
		})
		t.Logf("round %d: both hear of each other %s after the cut has ended", n, since(healed)) // that is for how long a sender waits
		s.more(30)
		for _, traffic := range s.traffic {
			traffic.Silence()
		}
		until(t, "all messages on both sides", s.heardAlike)
		until(t, "the same state on both sides", s.same)
		t.Logf("round %d: the same messages and state %s after the cut has ended", n, since(healed))
	}, s.sides...)
	s.silence()
	for _, sh := range s.shores {
		delays := sh.reader.delays(sh.arrivals.since(healed))
		sh.delays = append(sh.delays, delays...)
		t.Logf("round %d, %s: from arrival to delivery: %s", n, sh.name, quantiles(delays))
	}
	s.close(n)
	q.reconcile()
}

func (s *split) cut(apart bool) {
	for _, sh := range s.shores {
		sh.cluster.CutFederation(apart)
	}
}

// more waits until n more sends of each side have been answered.
func (s *split) more(n int64) {
	s.t.Helper()
	from := make([]int64, len(s.traffic))
	for i, traffic := range s.traffic {
		_, from[i], _ = traffic.Counts()
	}
	for i, traffic := range s.traffic {
		until(s.t, "more sends", func() error {
			if _, acked, _ := traffic.Counts(); acked < from[i]+n {
				return fmt.Errorf("%d were answered", acked-from[i])
			}
			return nil
		})
	}
}
