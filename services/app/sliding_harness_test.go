package app_test

import (
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

const slidingPath = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

// slider is a connection of sliding sync. Its requests go to the workers in turn.
type slider struct {
	*person
	body   object
	pos    string
	events map[string][]string // ids of the timelines' events by room, of all answers
	stable bool                // speaks /v4/sync
}

// slide begins a connection that asks for the rooms at some places, with so many events of each.
func (p *person) slide(last, limit int, state ...list) *slider {
	required := list{}
	for _, entry := range state {
		required = append(required, entry)
	}
	return p.slider(object{"lists": object{"all": object{"ranges": list{list{0, last}}, "timeline_limit": limit, "required_state": required}}})
}

func (p *person) slider(body object) *slider {
	return &slider{person: p, body: body, events: make(map[string][]string)}
}

// list is the only list of the connection.
func (s *slider) list() object { return s.body["lists"].(object)["all"].(object) }

// ask asks without going on.
func (s *slider) ask(pos string, timeout time.Duration) *reply {
	s.t.Helper()
	if s.stable {
		s.body["pos"], s.body["timeout"] = pos, timeout.Milliseconds()
		if pos == "" {
			delete(s.body, "pos")
		}
		return s.do("POST", "/_matrix/client/v4/sync", s.body)
	}
	q := url.Values{"timeout": {strconv.FormatInt(timeout.Milliseconds(), 10)}}
	if pos != "" {
		q.Set("pos", pos)
	}
	return s.do("POST", slidingPath+"?"+q.Encode(), s.body)
}

// poll asks once, waiting at the server for so long.
func (s *slider) poll(timeout time.Duration) *reply {
	s.t.Helper()
	r := s.ask(s.pos, timeout).ok()
	s.pos = r.str("pos")
	for room, v := range r.get("rooms").Map() {
		if v.Get("initial").Bool() || v.Get("unstable_expanded_timeline").Bool() {
			s.events[room] = nil
		}
		s.events[room] = append(s.events[room], ids(v.Get("timeline"))...)
	}
	return r
}

// until polls until an answer is as expected.
func (s *slider) until(what string, ok func(*reply) bool) *reply {
	s.t.Helper()
	var last *reply
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		if last = s.poll(5 * time.Second); ok(last) {
			return last
		}
	}
	s.t.Fatalf("no %s within two minutes; last answer: %s", what, last.raw)
	return nil
}

// sees polls until an event was told in a room.
func (s *slider) sees(room, event string) *reply {
	s.t.Helper()
	return s.until("event "+event, func(*reply) bool { return slices.Contains(s.events[room], event) })
}

// tells polls until a room is told of.
func (s *slider) tells(room string) gjson.Result {
	s.t.Helper()
	return s.until("word of "+room, func(r *reply) bool { return slideRoom(r, room).Exists() }).get("rooms." + escape(room))
}

func slideRoom(r *reply, room string) gjson.Result { return r.get("rooms." + escape(room)) }
