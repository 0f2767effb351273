package e2e

import (
	"fmt"
	"strings"
	"time"

	"hanse/tools/e2e/people"
)

// escape quotes what a gjson path would interpret.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, ".", `\.`, "*", `\*`, "?", `\?`, ":", `\:`, "|", `\|`, "#", `\#`, "@", `\@`, "!", `\!`).Replace(s)
}

// pause waits a moment before the server is asked again; it gives up when the scene is over.
func pause(s *scene) {
	select {
	case <-s.ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}

// until asks until the answer is right.
func (s *scene) eventually(what string, right func() bool) {
	s.Helper()
	for !right() {
		if s.ctx.Err() != nil {
			s.Fatalf("%s: not in time", what)
		}
		pause(s)
	}
}

// backfill: a room has 200 messages; somebody of the other cluster joins and reads all of them back.
func backfill(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob := s.person(first, 0, "alice"), s.person(second, 1, "bob")
		room := s.room(alice, roomOptions{"preset": "public_chat"})
		const messages = 200
		for i := range messages {
			s.say(alice, room, fmt.Sprint(i))
		}
		s.join(bob, room, s.server(0))
		var seen []string
		for _, e := range s.history(bob, room, 1000) {
			if e.Type == "m.room.message" {
				seen = append(seen, e.Get("body"))
			}
		}
		for i := range messages {
			if i >= len(seen) || seen[i] != fmt.Sprint(i) {
				s.Fatalf("message %d of %d is not in its place: %v", i, messages, seen)
			}
		}
		if len(seen) != messages {
			s.Errorf("%d messages in the history, want %d", len(seen), messages)
		}
		s.say(bob, room, "read it all")
		s.hears(alice, room, "read it all", false)
	})
}

// toDevice: messages to one device and to all of somebody, and news of devices to those who share a room.
func toDevice(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob, _ := s.pair(first, second)
		for i, pair := range [][2]*people.Person{{alice, bob}, {bob, alice}} {
			for _, device := range []string{pair[1].DeviceID, "*"} {
				nonce := fmt.Sprint(i, device)
				s.do(pair[0], "to_device", people.Args{"user": pair[1].UserID, "device": device, "type": "org.example.ping",
					"content": map[string]string{"nonce": nonce}}, nil)
				s.until(pair[1], "to-device message", func(n *people.Note) bool {
					return n.Kind == "to_device" && n.Type == "org.example.ping" && n.Get("nonce") == nonce && n.Sender == pair[0].UserID
				})
			}
			count := 0
			for _, n := range pair[1].Notes() {
				if n.Type == "org.example.ping" {
					count++
				}
			}
			if count != 2 {
				s.Errorf("%d to-device messages, want 2", count)
			}
		}
	})
}

// profile: a new name reaches the rooms, and can be asked for from the other cluster.
func profile(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob, room := s.pair(first, second)
		for _, pair := range [][2]*people.Person{{alice, bob}, {bob, alice}} {
			name := s.name("Renamed")
			s.do(pair[0], "display_name", people.Args{"name": name}, nil)
			s.until(pair[1], "the new name", func(n *people.Note) bool {
				return n.Room == room && isState(n, "m.room.member", pair[0].UserID) && n.Get("displayname") == name
			})
			var got struct{ Displayname string }
			s.do(pair[1], "profile", people.Args{"user": pair[0].UserID}, &got)
			if got.Displayname != name {
				s.Errorf("profile of %s: %q, want %q", pair[0].UserID, got.Displayname, name)
			}
		}
	})
}

// powerAndBans: who may do what, across clusters.
func powerAndBans(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob, room := s.pair(first, second)
		topic := people.Args{"room": room, "type": "m.room.topic", "key": "", "content": map[string]string{"topic": "bob's"}}
		s.refused("M_FORBIDDEN", bob, "set_state", topic)
		s.refused("M_FORBIDDEN", bob, "kick", people.Args{"room": room, "user": alice.UserID})
		mark := bob.Mark()
		s.do(alice, "set_state", people.Args{"room": room, "type": "m.room.power_levels", "key": "", "content": map[string]any{
			"users": map[string]int{bob.UserID: 50}, "events": map[string]int{"m.room.topic": 50}}}, nil)
		s.after(bob, mark, "the new powers", func(n *people.Note) bool { return n.Room == room && n.Type == "m.room.power_levels" })
		s.do(bob, "set_state", topic, nil)
		s.until(alice, "bob's topic", func(n *people.Note) bool { return n.Room == room && n.Get("topic") == "bob's" })

		for _, how := range []string{"kick", "ban"} {
			carol := s.person(second, 1, "carol")
			mark := bob.Mark()
			s.join(carol, room, s.server(0))
			s.membership(bob, mark, room, carol.UserID, "join")
			own := carol.Mark()
			s.do(bob, how, people.Args{"room": room, "user": carol.UserID, "reason": "test"}, nil)
			s.membership(alice, 0, room, carol.UserID, map[string]string{"kick": "leave", "ban": "ban"}[how])
			s.after(carol, own, "own removal", func(n *people.Note) bool { return n.Kind == "left_room" && n.Room == room })
			if how == "ban" {
				s.refused("M_FORBIDDEN", carol, "join", people.Args{"room": room, "via": []string{s.server(0).ServerName}})
				mark := carol.Mark()
				s.do(alice, "unban", people.Args{"room": room, "user": carol.UserID}, nil)
				s.membership(bob, 0, room, carol.UserID, "leave")
				_ = mark
				s.eventually("rejoin after the ban was lifted", func() bool {
					return carol.Do(s.ctx, "join", people.Args{"room": room, "via": []string{s.server(0).ServerName}}, nil) == nil
				})
			}
		}
	})
}

// directory: aliases and public rooms, seen from the other cluster.
func directory(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob := s.person(first, 0, "alice"), s.person(second, 1, "bob")
		local, topic := s.name("alias"), s.name("Topic")
		room := s.room(alice, roomOptions{"preset": "public_chat", "visibility": "public", "room_alias_name": local, "topic": topic})
		alias := "#" + local + ":" + s.server(0).ServerName
		var found struct {
			Room    string `json:"room_id"`
			Servers []string
		}
		s.do(bob, "resolve", people.Args{"alias": alias}, &found)
		if found.Room != room || len(found.Servers) == 0 {
			s.Errorf("%s: %+v, want %s", alias, found, room)
		}
		s.refused("M_NOT_FOUND", bob, "resolve", people.Args{"alias": "#nothing-here:" + s.server(0).ServerName})
		for _, p := range []struct {
			*people.Person
			server string
		}{{alice, ""}, {bob, s.server(0).ServerName}} {
			var list struct {
				Chunk []struct {
					Room  string `json:"room_id"`
					Topic string
				}
			}
			s.do(p.Person, "public_rooms", people.Args{"server": p.server}, &list)
			listed := false
			for _, r := range list.Chunk {
				listed = listed || r.Room == room && r.Topic == topic
			}
			if !listed {
				s.Errorf("%s is not listed for %s: %+v", room, p.UserID, list)
			}
		}
		s.join(bob, alias)
		another := "#" + s.name("second") + ":" + s.server(0).ServerName
		s.do(alice, "set_alias", people.Args{"room": room, "alias": another}, nil)
		s.do(bob, "resolve", people.Args{"alias": another}, &found)
		if found.Room != room {
			s.Errorf("%s: %+v, want %s", another, found, room)
		}
	})
}

func joinRule(content map[string]any) roomOptions {
	return roomOptions{"preset": "private_chat", "initial_state": []any{map[string]any{"type": "m.room.join_rules", "state_key": "", "content": content}}}
}

// knock: bob knocks from the other cluster and is let in.
func knock(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob := s.person(first, 0, "alice"), s.person(second, 1, "bob")
		room := s.room(alice, joinRule(map[string]any{"join_rule": "knock"}))
		via := []string{s.server(0).ServerName}
		s.refused("M_FORBIDDEN", bob, "join", people.Args{"room": room, "via": via})
		s.do(bob, "knock", people.Args{"room": room, "via": via, "reason": "please"}, nil)
		s.until(bob, "own knock", func(n *people.Note) bool { return n.Kind == "knocked_room" && n.Room == room })
		s.membership(alice, 0, room, bob.UserID, "knock")
		s.do(alice, "invite", people.Args{"room": room, "user": bob.UserID}, nil)
		s.invited(bob, room)
		s.join(bob, room)
		s.membership(alice, 0, room, bob.UserID, "join")
	})
}

// restricted: who is in one room may join another without an invitation.
func restricted(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob := s.person(first, 0, "alice"), s.person(second, 1, "bob")
		club := s.room(alice, roomOptions{"preset": "public_chat"})
		room := s.room(alice, joinRule(map[string]any{"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": club}}}))
		s.refused("M_FORBIDDEN", bob, "join", people.Args{"room": room, "via": []string{s.server(0).ServerName}})
		s.join(bob, club, s.server(0))
		s.membership(alice, 0, club, bob.UserID, "join")
		s.join(bob, room, s.server(0))
		s.membership(alice, 0, room, bob.UserID, "join")
		s.say(bob, room, "in")
		s.hears(alice, room, "in", false)
	})
}

// presence (client-server API, "Presence"; server-server API, "Presence"): who meets hears that the other is online,
// though nothing changes. Then each sees what the other comes to be: a device is what its last PUT or the set_presence of
// a poll behind it says, and no poll takes back the status. A poll that was under way at the PUT may show in between.
func presence(s *scene) {
	s.mixed(mixtures[1:3], func(s *scene, first, second people.Kind) {
		alice, bob, _ := s.pair(first, second)
		for _, pair := range [][2]*people.Person{{alice, bob}, {bob, alice}} {
			sees := func(mark int, state, status string) {
				s.after(pair[1], mark, "presence "+state, func(n *people.Note) bool {
					return n.Type == "m.presence" && n.Sender == pair[0].UserID && n.Get("presence") == state && (status == "" || n.Get("status_msg") == status)
				})
			}
			sees(0, "online", "")
			for _, state := range []string{"unavailable", "online"} {
				status, mark := s.name("busy"), pair[1].Mark()
				s.do(pair[0], "presence", people.Args{"name": state, "status": status}, nil)
				sees(mark, state, status)
			}
		}
	})
}
