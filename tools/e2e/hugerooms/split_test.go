package hugerooms

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/tools/cluster"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/mxclient"
)

// Two clusters share a room of many members. They are cut apart and come together again and again, while people on both
// write messages and change state: after each time both have every message once and the same state.
func TestSplit(t *testing.T) {
	cfg := hugeroom.Scaled(size(t, 1500, 100_000))
	cfg.Servers, cfg.Seed = 12, 3 // most of them only have to be sent what the two clusters say
	p := serve(t, cfg, peer.Config{OmitMembers: true})
	other, err := newCluster(t.Context(), "other", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &split{t: t, peer: p, room: string(roomID(t, p)), clusters: []*cluster.Cluster{shared, other}}
	s.sides = [][]*mxclient.Client{register(t, shared, "here0", "here1"), register(t, other, "there0", "there1")}
	s.enter()
	rounds := 2
	if full {
		rounds = 10
	}
	for round := range rounds {
		s.round(round)
	}
	asked(t, p)
}

// split is a room of two clusters.
type split struct {
	t        *testing.T
	peer     *peer.Peer
	room     string
	clusters []*cluster.Cluster
	sides    [][]*mxclient.Client
	traffic  []*scenario.Traffic
	from     id.Event // what comes before it is older than what is compared
}

// enter lets all join, the first through the room's servers and the others through the first cluster, and gives one
// of each side the power to change state.
func (s *split) enter() {
	t := s.t
	t.Helper()
	users := map[string]int{}
	for i, side := range s.sides {
		for k, p := range side {
			via := s.clusters[0].ServerName
			if i+k == 0 {
				via = string(s.peer.Resident())
			}
			begin := time.Now()
			// A server that has not all of the members yet lets nobody in.
			until(t, "join", func() error { _, err := p.Join(t.Context(), s.room, via); return err })
			t.Logf("%s joined in %s", p.UserID, since(begin))
		}
		users[side[0].UserID] = 50
	}
	until(t, "all at the room's servers", func() error {
		return s.peer.Room(func(r *hugeroom.Room) error {
			for _, side := range s.sides {
				for _, p := range side {
					if !member(r, id.User(p.UserID)) {
						return fmt.Errorf("%s has not come", p.UserID)
					}
				}
			}
			return nil
		})
	})
	s.empower(users)
	until(t, "the same state before", s.sameState)
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
	s.from = names(t, s.peer, []int{n})[0]
	for _, c := range s.clusters {
		out, err := s.peer.Push(t.Context(), peer.Pushing{To: id.Server(c.ServerName), Origin: s.peer.Resident()}, n)
		if err != nil || len(out.Refused) > 0 {
			t.Fatalf("power levels: %v, %v", out.Refused, err)
		}
	}
	s.peer.Deafen(true) // what follows is between the clusters
}

// round cuts the clusters apart, lets both go their way, and heals.
func (s *split) round(n int) {
	t := s.t
	t.Helper()
	for i, side := range s.sides {
		traffic, err := scenario.StartTraffic(t.Context(), scenario.TrafficConfig{Rooms: []scenario.Room{{ID: s.room, Users: side}},
			Senders: 2, Rate: 10, Run: fmt.Sprint("split", n, "side", i)})
		if err != nil {
			t.Fatal(err)
		}
		s.traffic = append(s.traffic, traffic)
	}
	s.more(5)
	for _, c := range s.clusters {
		c.CutFederation(true)
	}
	for i := range 3 {
		for name, side := range map[string][]*mxclient.Client{"here": s.sides[0], "there": s.sides[1]} {
			s.set(side[0], "m.room.topic", "", map[string]string{"topic": fmt.Sprint(name, n, i)})
			s.set(side[0], "org.example.side", name, map[string]int{"n": n, "i": i}) // the other side knows nothing of it
			s.set(side[1], "m.room.member", side[1].UserID, map[string]string{"membership": "join", "displayname": fmt.Sprint(name, n, i)})
		}
		s.more(5)
	}
	if s.sameState() == nil {
		t.Error("the sides were not apart")
	}
	for _, c := range s.clusters {
		c.CutFederation(false)
	}
	healed := time.Now()
	s.more(10)
	for _, traffic := range s.traffic {
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
		t.Logf("round %d: %+v", n, out.Latencies)
	}
	s.traffic = nil
	until(t, "all messages on both sides", s.sameMessages)
	until(t, "the same state on both sides", s.sameState)
	t.Logf("round %d healed within %s", n, since(healed))
}

func (s *split) set(p *mxclient.Client, typ, key string, content any) {
	s.t.Helper()
	if _, err := p.SendState(s.t.Context(), s.room, typ, key, content); err != nil {
		s.t.Fatal(err)
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

func (s *split) sameState() error {
	here, err := stateOf(s.t, s.sides[0][0], s.room)
	if err != nil {
		return err
	}
	there, err := stateOf(s.t, s.sides[1][0], s.room)
	if err != nil || maps.Equal(here, there) {
		return err
	}
	return differ(here, there)
}

// sameMessages compares what people of the two clusters have said.
func (s *split) sameMessages() error {
	var said [2]map[string]bool
	for i := range said {
		events, err := s.sides[i][0].History(s.t.Context(), s.room, "", func(e *mxclient.Event) bool { return id.Event(e.EventID) == s.from })
		if err != nil {
			return err
		}
		said[i] = make(map[string]bool)
		for _, e := range events {
			ours := strings.HasSuffix(e.Sender, ":"+s.clusters[0].ServerName) || strings.HasSuffix(e.Sender, ":"+s.clusters[1].ServerName)
			if !ours || e.Type != "m.room.message" {
				continue
			}
			if said[i][e.EventID] {
				s.t.Fatalf("%s is twice in the history of side %d", e.EventID, i)
			}
			said[i][e.EventID] = true
		}
	}
	if len(said[0]) == 0 || !maps.Equal(said[0], said[1]) {
		return fmt.Errorf("%d and %d messages", len(said[0]), len(said[1]))
	}
	return nil
}
