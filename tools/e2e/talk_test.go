package e2e

import (
	"testing"

	"hanse/tools/e2e/people"
)

// accounts: registration with the shared secret and without, login, logout.
func accounts(s *scene) {
	for i, server := range s.Servers {
		name := s.name("shared")
		if _, err := server.API.RegisterShared(s.ctx, server.SharedSecret, name, password, false); err != nil {
			s.Fatal(err)
		}
		for _, kind := range []people.Kind{people.Go, people.JS} {
			p := try(s.Host(kind).Login(s.ctx, server.BaseURL, name, password))(s)
			s.do(p, "start", nil, nil)
			s.do(p, "logout", nil, nil)
			s.person(kind, i, "dummy")
		}
		for _, kind := range []people.Kind{people.Go, people.JS} {
			if _, err := s.Host(kind).Login(s.ctx, server.BaseURL, name, "wrong"); !people.IsCode(err, "M_FORBIDDEN") {
				s.Errorf("login with a wrong password: %v", err)
			}
			if _, err := s.Host(kind).Register(s.ctx, server.BaseURL, name, password); !people.IsCode(err, "M_USER_IN_USE") {
				s.Errorf("register a name that is taken: %v", err)
			}
		}
	}
}

// encryptedTalk: an encrypted room, an invitation to the other cluster, messages both ways.
func encryptedTalk(s *scene) {
	s.mixed(mixtures, func(s *scene, first, second people.Kind) {
		alice, bob := s.person(first, 0, "alice"), s.person(second, 1, "bob")
		room := s.room(alice, roomOptions{"preset": "private_chat", "name": "Secrets", "initial_state": []any{encrypted}, "invite": []string{bob.UserID}})
		s.until(alice, "encryption", func(n *people.Note) bool { return n.Room == room && n.Type == "m.room.encryption" })
		s.invited(bob, room)
		mark := alice.Mark()
		s.join(bob, room)
		s.membership(alice, mark, room, bob.UserID, "join")
		s.until(bob, "encryption", func(n *people.Note) bool { return n.Room == room && n.Type == "m.room.encryption" })
		for range 3 {
			text := s.name("from alice")
			s.say(alice, room, text)
			s.hears(bob, room, text, true)
			text = s.name("from bob")
			s.say(bob, room, text)
			s.hears(alice, room, text, true)
		}
	})
}

// secondDevice: somebody logs in again, the devices are told apart and signed by one identity, a message goes to both.
func secondDevice(s *scene) {
	s.mixed(mixtures, func(s *scene, first, second people.Kind) {
		alice, bob := s.person(first, 0, "alice"), s.person(second, 1, "bob")
		room := s.room(alice, roomOptions{"preset": "private_chat", "initial_state": []any{encrypted}, "invite": []string{bob.UserID}})
		s.invited(bob, room)
		mark := alice.Mark()
		s.join(bob, room)
		s.membership(alice, mark, room, bob.UserID, "join")
		before := s.say(bob, room, "before")
		s.hears(alice, room, "before", true)

		var keys struct{ Recovery string }
		s.do(alice, "cross_sign", people.Args{"password": password}, &keys)
		s.trusts(bob, alice, true)
		bobMark := bob.Mark()
		tablet := try(s.Host(second).Login(s.ctx, alice.Base, alice.UserID, password))(s)
		s.do(tablet, "start", nil, nil)
		s.after(bob, bobMark, "alice's new device", func(n *people.Note) bool { return n.Kind == "devices" })
		s.trusts(bob, tablet, false)
		s.do(tablet, "verify_with", people.Args{"recovery": keys.Recovery}, nil)
		s.trusts(bob, tablet, true)
		s.trusts(alice, tablet, true)

		s.say(bob, room, "to both")
		s.hears(alice, room, "to both", true)
		s.hears(tablet, room, "to both", true)
		if first == people.Go && second == people.Go { // the Rust crypto leaves this to key backup
			s.hears(tablet, room, "before", true)
			_ = before
		}
	})
}

// trusts waits until somebody sees a device as signed by its owner, or fails if that comes unasked.
func (s *scene) trusts(p, other *people.Person, want bool) {
	s.Helper()
	for {
		var seen struct{ Known, Signed bool }
		s.do(p, "trusts", people.Args{"user": other.UserID, "device": other.DeviceID}, &seen)
		if seen.Known && seen.Signed == want {
			return
		}
		if s.ctx.Err() != nil {
			s.Fatalf("%s sees %s of %s as %+v, want signed %t", p.UserID, other.DeviceID, other.UserID, seen, want)
		}
		pause(s)
	}
}

// ephemeral: receipts and typing, both ways.
func ephemeral(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob, room := s.pair(first, second)
		event := s.say(alice, room, "read this")
		s.hears(bob, room, "read this", false)
		s.do(bob, "receipt", people.Args{"room": room, "event": event}, nil)
		s.until(alice, "bob's receipt", func(n *people.Note) bool {
			return n.Room == room && n.Type == "m.receipt" && n.Get(escape(event)+".m\\.read."+escape(bob.UserID)+".ts") != ""
		})
		for _, pair := range [][2]*people.Person{{alice, bob}, {bob, alice}} {
			mark := pair[1].Mark()
			for _, typing := range []bool{true, false} {
				s.do(pair[0], "typing", people.Args{"room": room, "typing": typing}, nil)
				s.after(pair[1], mark, "typing", func(n *people.Note) bool {
					return n.Room == room && n.Type == "m.typing" && (n.Get("user_ids.0") == pair[0].UserID) == typing
				})
			}
		}
	})
}

// pair returns two people of two clusters in a room that is not encrypted.
func (s *scene) pair(first, second people.Kind) (alice, bob *people.Person, room string) {
	s.Helper()
	alice, bob = s.person(first, 0, "alice"), s.person(second, 1, "bob")
	room = s.room(alice, roomOptions{"preset": "public_chat"})
	mark := alice.Mark()
	s.join(bob, room, s.server(0))
	s.membership(alice, mark, room, bob.UserID, "join")
	return alice, bob, room
}

// redaction: each redacts own messages, alice those of bob too.
func redaction(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob, room := s.pair(first, second)
		mine, his := s.say(alice, room, "mine"), s.say(bob, room, "his")
		s.hears(bob, room, "mine", false)
		s.hears(alice, room, "his", false)
		s.refused("M_FORBIDDEN", bob, "redact", people.Args{"room": room, "event": mine})
		for _, r := range []struct {
			by    *people.Person
			event string
		}{{alice, mine}, {alice, his}} {
			s.do(r.by, "redact", people.Args{"room": room, "event": r.event, "reason": "regret"}, nil)
			for _, p := range []*people.Person{alice, bob} {
				s.until(p, "the redaction", func(n *people.Note) bool {
					return n.Room == room && n.Type == "m.room.redaction" && n.Get("redacts") == r.event
				})
			}
		}
		for _, p := range []*people.Person{alice, bob} {
			for _, e := range s.history(p, room, 100) {
				if (e.Event == mine || e.Event == his) && e.Get("body") != "" {
					s.Errorf("%s still reads what was redacted: %s", p.UserID, e.String())
				}
			}
		}
	})
}

// leaveAndRejoin: what was said meanwhile is not shown to who had left, and what is said afterwards is.
func leaveAndRejoin(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob, room := s.pair(first, second)
		s.say(alice, room, "one")
		s.hears(bob, room, "one", false)
		for _, p := range []*people.Person{bob, alice, bob} {
			other := map[*people.Person]*people.Person{alice: bob, bob: alice}[p]
			mark, own := other.Mark(), p.Mark()
			s.do(p, "leave", people.Args{"room": room}, nil)
			s.membership(other, mark, room, p.UserID, "leave")
			s.after(p, own, "own leave", func(n *people.Note) bool { return n.Kind == "left_room" && n.Room == room })
			s.refused("M_FORBIDDEN", p, "send", people.Args{"room": room, "type": "m.room.message", "content": map[string]string{"msgtype": "m.text", "body": "x"}})
			mark = other.Mark()
			s.join(p, room, s.server(0), s.server(1))
			s.membership(other, mark, room, p.UserID, "join")
			text := s.name("back")
			s.say(p, room, text)
			s.hears(other, room, text, false)
		}
	})
}

// history reads the newest events of a room, oldest first.
func (s *scene) history(p *people.Person, room string, limit int) []people.Note {
	s.Helper()
	var h struct{ Events []people.Note }
	s.do(p, "history", people.Args{"room": room, "limit": limit}, &h)
	return h.Events
}

func TestEscape(t *testing.T) {
	if got := escape("a.b*c"); got != `a\.b\*c` {
		t.Error(got)
	}
}
