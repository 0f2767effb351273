package e2e

import (
	"fmt"
	"net/url"
	"sync"
	"time"

	"hanse/tools/mxclient"
)

// direct returns clients for an account past the proxy: one for each replica of a role, or of the single process.
func (s *scene) direct(server int, role string, session mxclient.Session) []*mxclient.Client {
	s.Helper()
	c := s.server(server)
	if c.Replicas(role) == 0 {
		role = "all"
	}
	var out []*mxclient.Client
	for i := range c.Replicas(role) {
		out = append(out, mxclient.New(c.DirectURL(role, i), mxclient.Options{}).As(session))
	}
	return out
}

// replicas: whichever replica somebody asks, the answers are those of one server: the same transaction is one event,
// and a sync token of one replica goes on at another without loss or repetition.
func replicas(s *scene) {
	alice, bob := s.guide(0), s.guide(0)
	room := try(alice.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "public_chat"}))(s)
	try(bob.Join(s.ctx, room))(s)
	senders, readers := s.direct(0, "client", alice.Session), s.direct(0, "sync", bob.Session)

	since := try(readers[0].Sync(s.ctx, mxclient.SyncRequest{}))(s).NextBatch
	const messages = 60
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range messages {
		wg.Go(func() {
			for _, ids := range [][]string{s.sendEverywhere(senders, room, fmt.Sprint("m", i)), s.toDeviceEverywhere(senders, bob, i)} {
				for _, id := range ids {
					if id != ids[0] {
						s.Errorf("one transaction, two events: %s and %s", ids[0], id)
					}
				}
			}
		})
	}
	seen, toDevice := make(map[string]int), make(map[string]int)
	for i := 0; len(seen) < messages || len(toDevice) < messages; i++ {
		resp := try(readers[i%len(readers)].Sync(s.ctx, mxclient.SyncRequest{Since: since, Timeout: 2 * time.Second}))(s)
		since = resp.NextBatch
		if r := resp.Rooms.Join[room]; r != nil {
			if r.Timeline.Limited {
				s.gap(bob.Client, room, r.Timeline.PrevBatch, seen)
			}
			for _, e := range r.Timeline.Events {
				if e.Type == "m.room.message" {
					seen[e.EventID]++
				}
			}
		}
		for _, e := range resp.ToDevice.Events {
			toDevice[string(e.Content)]++
		}
		if s.ctx.Err() != nil {
			s.Fatalf("%d of %d messages, %d to-device messages", len(seen), messages, len(toDevice))
		}
	}
	for id, n := range seen {
		if n != 1 {
			s.Errorf("%s was shown %d times", id, n)
		}
	}
	for content, n := range toDevice {
		if n != 1 {
			s.Errorf("%s came %d times", content, n)
		}
	}
}

// redactedEverywhere: what was redacted is gone from all replicas, also from those that had read it before and have no part in the
// redaction.
func redactedEverywhere(s *scene) {
	alice := s.guide(0)
	room := try(alice.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "public_chat"}))(s)
	topic := try(alice.SendState(s.ctx, room, "m.room.topic", "", map[string]string{"topic": "a secret"}))(s)
	readers := s.direct(0, "client", alice.Session)
	for _, c := range readers {
		try(c.StateEvent(s.ctx, room, "m.room.topic", ""))(s)
	}
	try(alice.Redact(s.ctx, room, topic, "r", ""))(s)
	deadline := time.Now().Add(30 * time.Second) // a cache forgets what it has after a minute in any case
	for i, c := range readers {
		s.eventually(fmt.Sprintf("the redaction at replica %d", i), func() bool {
			e := try(c.StateEvent(s.ctx, room, "m.room.topic", ""))(s)
			if time.Now().After(deadline) {
				s.Fatalf("replica %d still shows %s", i, e.Content)
			}
			return string(e.Content) == "{}"
		})
	}
}

// sendEverywhere sends the same transaction by all replicas at once and returns their event ids.
func (s *scene) sendEverywhere(senders []*mxclient.Client, room, txn string) []string {
	ids := make([]string, len(senders))
	var wg sync.WaitGroup
	for i, c := range senders {
		wg.Go(func() {
			id, err := c.SendText(s.ctx, room, txn, txn)
			if err != nil {
				s.Error(err)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	return ids
}

// toDeviceEverywhere sends the same to-device transaction by all replicas at once.
func (s *scene) toDeviceEverywhere(senders []*mxclient.Client, to *guide, n int) []string {
	var wg sync.WaitGroup
	for _, c := range senders {
		wg.Go(func() {
			messages := map[string]map[string]any{to.UserID: {to.DeviceID: map[string]int{"n": n}}}
			if err := c.SendToDevice(s.ctx, "org.example.count", fmt.Sprint("d", n), messages); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	return nil
}

// gap reads what a limited timeline left out.
func (s *scene) gap(c *mxclient.Client, room, from string, seen map[string]int) {
	s.Helper()
	events := try(c.History(s.ctx, room, from, func(e *mxclient.Event) bool { return seen[e.EventID] > 0 }))(s)
	for _, e := range events {
		if e.Type == "m.room.message" {
			seen[e.EventID]++
		}
	}
}

// roomVersions: rooms of every version between the servers, in both directions.
func roomVersions(s *scene) {
	here, there := s.guide(0), s.guide(1)
	for version := 1; version <= 12; version++ {
		for _, pair := range [][2]*guide{{here, there}, {there, here}} {
			owner, guest := pair[0], pair[1]
			room := try(owner.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "public_chat", RoomVersion: fmt.Sprint(version)}))(s)
			via := s.server(0).ServerName
			if owner == there {
				via = s.server(1).ServerName
			}
			try(guest.Join(s.ctx, room, via))(s)
			said := try(guest.SendText(s.ctx, room, "t"+room, "hello"))(s)
			s.eventually(fmt.Sprintf("a message in version %d", version), func() bool { _, err := owner.Event(s.ctx, room, said); return err == nil })
			try(owner.Redact(s.ctx, room, said, "r"+room, "hush"))(s)
			s.eventually(fmt.Sprintf("its redaction in version %d", version), func() bool {
				e, err := guest.Event(s.ctx, room, said)
				return err == nil && string(e.Content) == "{}"
			})
		}
	}
}

// accessLists: a server that a room's list denies is not heard any more (server-server API, "Server Access Control
// Lists"), and is heard again when the list lets it.
func accessLists(s *scene) {
	if len(s.Servers) == 1 {
		s.Skip("there is one server")
	}
	alice, bob := s.guide(0), s.guide(1)
	room := try(alice.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "public_chat"}))(s)
	try(bob.Join(s.ctx, room, s.server(0).ServerName))(s)
	open := try(alice.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "public_chat"}))(s)
	try(bob.Join(s.ctx, open, s.server(0).ServerName))(s)
	heardIn := func(room, event string) func() bool {
		return func() bool { _, err := alice.Event(s.ctx, room, event); return err == nil }
	}
	s.eventually("a message before", heardIn(room, try(bob.SendText(s.ctx, room, "t1", "before"))(s)))
	host := (&url.URL{Host: s.server(1).ServerName}).Hostname()
	acl := try(alice.SendState(s.ctx, room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{host}, "allow_ip_literals": true}))(s)
	s.eventually("the list at the other server", func() bool { _, err := bob.Event(s.ctx, room, acl); return err == nil })
	denied := try(bob.SendText(s.ctx, room, "t2", "denied"))(s)
	// What bob says in another room afterwards gets through: the other is refused, not late.
	s.eventually("a message elsewhere", heardIn(open, try(bob.SendText(s.ctx, open, "t", "elsewhere"))(s)))
	if heardIn(room, denied)() {
		s.Error("a denied server was heard")
	}
	lifted := try(alice.SendState(s.ctx, room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "allow_ip_literals": true}))(s)
	s.eventually("the lifted list", func() bool { _, err := bob.Event(s.ctx, room, lifted); return err == nil })
	s.eventually("a message afterwards", heardIn(room, try(bob.SendText(s.ctx, room, "t3", "afterwards"))(s)))
}
