package fedin

import (
	"fmt"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	logv1 "hanse/proto/log/v1"
)

// hears collects the presence that the workers tell each other of.
func (w *worker) hears() <-chan *logv1.Presence {
	w.t.Helper()
	heard := make(chan *logv1.Presence, 100)
	sub, err := w.bus.SubscribePresence(func(p *logv1.Presence) { heard <- p })
	must(w.t, err)
	w.t.Cleanup(func() { _ = sub.Stop() }) // fails only if the connection is closed
	must(w.t, w.bus.Conn().Flush())
	return heard
}

// joined makes the server one of a room's.
func (s *server) joined(room id.Room) {
	s.w.t.Helper()
	part := int32(partition.Of(string(room)))
	_, err := s.w.shards.For(uint32(part)).Exec(s.w.t.Context(), `INSERT INTO room_server (part, room_nid, server, joined)
		SELECT part, room_nid, $3, 1 FROM room WHERE part = $1 AND room_id = $2`, part, string(room), string(s.name))
	must(s.w.t, err)
}

// tells sends an m.presence of one user.
func (s *server) tells(txn string, user id.User, presence, status string) {
	s.w.t.Helper()
	s.do("PUT", txnURI(txn), map[string]any{"pdus": []any{}, "edus": []any{map[string]any{"edu_type": "m.presence", "content": map[string]any{
		"push": []any{map[string]any{"user_id": user, "presence": presence, "status_msg": status, "last_active_ago": 10}}}}}}).ok()
}

// Server-server API, "Presence": a server that has let one of ours into a room tells of its users before we have stored
// the room. That no room was shared then is neither held against what it tells later, nor is what it told lost.
func TestPresenceBeforeRoom(t *testing.T) {
	w := newWorker(t)
	heard := w.hears()
	s, stranger := w.server("one.example"), w.server("two.example")
	stranger.tells("1", "@eve:two.example", "online", "")
	s.tells("1", "@adam:one.example", "unavailable", "early")
	w.room("!a:one.example", "11")
	s.joined("!a:one.example")
	s.tells("2", "@carl:one.example", "online", "late")
	deadline := time.After(50 * time.Second) // less than the minute for which an answer would be remembered
	for seen := map[string]string{}; seen["@adam:one.example"] != "early" || seen["@carl:one.example"] != "late"; {
		select {
		case p := <-heard:
			seen[p.UserId] = p.StatusMsg
			if p.UserId == "@eve:two.example" {
				t.Error("presence of a server that shares no room is told")
			}
		case <-deadline:
			t.Fatalf("heard only of %v", seen)
		}
	}
}

// What strangers tell is bounded: the servers, their users, and how often it is looked whether they share a room.
func TestEarlyPresenceIsBounded(t *testing.T) {
	var e early
	now := time.Now()
	of := func(n int) (news []*logv1.Presence) {
		for i := range n {
			news = append(news, &logv1.Presence{UserId: fmt.Sprintf("@u%d:one.example", i), Presence: "online"})
		}
		return news
	}
	e.hold("nobody.example", nil, now)
	for i := range maxEarly + 10 {
		e.hold(id.Server(fmt.Sprintf("s%d.example", i)), of(1), now)
	}
	e.hold("s0.example", of(maxEarlyUsers+10), now)
	e.hold("s0.example", []*logv1.Presence{{UserId: "@u0:one.example", Presence: "offline"}}, now)
	looks := 0
	for range 200 {
		now = now.Add(earlyStep)
		looks += len(e.due(now))
	}
	if looks != maxEarly*earlySteps || len(e.servers) != 0 {
		t.Errorf("looked %d times, %d servers are left", looks, len(e.servers))
	}
	e.hold("s0.example", of(maxEarlyUsers+10), now)
	e.hold("s0.example", []*logv1.Presence{{UserId: "@u0:one.example", Presence: "offline"}}, now)
	states := map[string]int{}
	for _, p := range e.take("s0.example") {
		states[p.Presence]++
	}
	if states["offline"] != 1 || states["online"] != maxEarlyUsers-1 || len(e.take("s0.example")) != 0 {
		t.Errorf("held %v", states)
	}
}
