package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"hanse/tools/cluster"
	"hanse/tools/loadgen/account"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/mxclient"
)

// Two clusters are cut apart while people on both write messages and state; they come together, and both have every
// message once and the same state (room versions, "State resolution").
func TestClustersCutApart(t *testing.T) {
	begin := time.Now()
	other, guests := neighbour(t)
	here, there := withRetry(people[:3], stubborn), withRetry(guests, stubborn)
	room := sharedRoom(t, here, there)
	one := startTraffic(t, scenario.TrafficConfig{Rooms: []scenario.Room{{ID: room, Users: here}}, Senders: 3, Rate: 20})
	two := startTraffic(t, scenario.TrafficConfig{Rooms: []scenario.Room{{ID: room, Users: there}}, Senders: 3, Rate: 20})
	both := func(n int64) { more(t, one, n); more(t, two, n) }
	both(20)

	for _, c := range []*cluster.Cluster{shared, other} {
		c.CutFederation(true)
	}
	both(10)
	for i := range 3 {
		for side, p := range map[string]*mxclient.Client{"here": here[0], "there": there[0]} {
			for _, typ := range []string{"m.room.name", "m.room.topic"} {
				if _, err := p.SendState(t.Context(), room, typ, "", map[string]string{typ[len("m.room."):]: fmt.Sprint(side, i)}); err != nil {
					t.Fatal(err)
				}
			}
			// State that only this side touches, too: it must reach the other.
			if _, err := p.SendState(t.Context(), room, "org.example.side", side, map[string]int{"n": i}); err != nil {
				t.Fatal(err)
			}
		}
		both(10)
	}
	// The owner takes the power away: what the guest wrote apart from that is judged alike by both.
	if _, err := here[0].SendState(t.Context(), room, "m.room.power_levels", "", levels(there[0].UserID, 10)); err != nil {
		t.Fatal(err)
	}
	both(10)
	if sameMessages(t, room, here[0], there[0]) == nil || sameState(t, room, here[0], there[0]) == nil {
		t.Error("the two sides were not apart")
	}
	for _, c := range []*cluster.Cluster{shared, other} {
		c.CutFederation(false)
	}
	healed := time.Now()
	both(20)
	settle(t, one)
	settle(t, two)
	until(t, "all messages on both sides", func() error { return sameMessages(t, room, here[0], there[0]) })
	until(t, "the same state on both sides", func() error { return sameState(t, room, here[0], there[0]) })
	t.Logf("healed within %s; in all %s", time.Since(healed).Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

func levels(guest string, power int) map[string]any {
	return map[string]any{"users": map[string]int{guest: power}, "users_default": 0, "state_default": 50, "events_default": 0}
}

// sharedRoom makes a room on one side in which people of both are; the first of the other side may write state.
func sharedRoom(t *testing.T, here, there []*mxclient.Client) string {
	t.Helper()
	room := newRoom(t, here)
	for _, p := range there {
		if _, err := p.Join(t.Context(), room, shared.ServerName); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := here[0].SendState(t.Context(), room, "m.room.power_levels", "", levels(there[0].UserID, 50)); err != nil {
		t.Fatal(err)
	}
	until(t, "the same state before", func() error { return sameState(t, room, here[0], there[0]) })
	return room
}

// sameMessages compares what the histories of both sides have of the traffic, each message once.
func sameMessages(t *testing.T, room string, a, b *mxclient.Client) error {
	x, err := messagesOf(t, room, a)
	if err != nil {
		return err
	}
	y, err := messagesOf(t, room, b)
	if err != nil {
		return err
	}
	if !maps.Equal(x, y) {
		var diff []string
		for _, one := range [][2]map[account.Mark]string{{x, y}, {y, x}} {
			for mark, event := range one[0] {
				if one[1][mark] != event {
					diff = append(diff, fmt.Sprint(mark, " ", event))
				}
			}
		}
		return fmt.Errorf("%d and %d messages; %d differ, as %v", len(x), len(y), len(diff), diff[:min(5, len(diff))])
	}
	return nil
}

func messagesOf(t *testing.T, room string, p *mxclient.Client) (map[account.Mark]string, error) {
	events, err := p.History(t.Context(), room, "", nil)
	if err != nil {
		return nil, err
	}
	out := make(map[account.Mark]string)
	for _, e := range events {
		var content struct {
			Body string `json:"body"`
		}
		if err := json.Unmarshal(e.Content, &content); err != nil {
			return nil, err
		}
		mark, ok := account.ParseMark(content.Body)
		if !ok {
			continue
		}
		if twice, ok := out[mark]; ok {
			t.Fatalf("%s has %s twice: %s and %s", p.UserID, mark, twice, e.EventID)
		}
		out[mark] = e.EventID
	}
	return out, nil
}

// sameState compares the state of both sides event by event.
func sameState(t *testing.T, room string, a, b *mxclient.Client) error {
	var states [2]map[string]string
	for i, p := range []*mxclient.Client{a, b} {
		events, err := p.State(t.Context(), room)
		if err != nil {
			return err
		}
		states[i] = make(map[string]string)
		for _, e := range events {
			states[i][e.Type+" "+*e.StateKey] = e.EventID
		}
	}
	if maps.Equal(states[0], states[1]) {
		return nil
	}
	var diff []string
	keys := maps.Clone(states[0])
	maps.Copy(keys, states[1])
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if states[0][k] != states[1][k] {
			diff = append(diff, fmt.Sprintf("%s: %q and %q", k, states[0][k], states[1][k]))
		}
	}
	return fmt.Errorf("states differ: %v", diff)
}
