package app_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// A first answer is put together of what was worked out before, for others, at other times. It must say the same as one
// that is worked out for its reader alone and event by event, which a filter brings about that excludes what does not
// exist. Client-server API, "Syncing", "Room history visibility", "Lazy-loading room members".
func testSyncFirst(t *testing.T, w *world) {
	const seed = 20240229
	rng := rand.New(rand.NewPCG(seed, 0))
	s := &firstStory{t: t, rng: rng}
	for i := range 4 {
		s.people = append(s.people, w.register(t, fmt.Sprint("first", i)))
	}
	owner := s.people[0]
	for _, history := range []string{"shared", "joined", "invited"} {
		room := owner.create(object{"preset": "public_chat", "initial_state": list{
			object{"type": "m.room.history_visibility", "content": object{"history_visibility": history}}}})
		s.rooms = append(s.rooms, &firstRoom{owner: owner, in: map[*person]bool{owner: true}, id: room})
	}
	for step := range 80 {
		what := s.act()
		if step%4 == 0 {
			for _, p := range s.people {
				s.compare(p, fmt.Sprintf("step %d (%s) of seed %d", step, what, seed))
			}
		}
	}
}

// firstStory is random things that happen in rooms.
type firstStory struct {
	t      *testing.T
	rng    *rand.Rand
	people []*person
	rooms  []*firstRoom
}

type firstRoom struct {
	id    string
	owner *person
	in    map[*person]bool
	said  []string
}

// act makes one thing happen, and says what.
func (s *firstStory) act() string {
	r, p := s.rooms[s.rng.IntN(len(s.rooms))], s.people[s.rng.IntN(len(s.people))]
	if !r.in[p] {
		if s.rng.IntN(3) == 0 {
			r.owner.do("POST", in(r.id, "invite"), object{"user_id": p.id}).ok()
		}
		r.in[p] = true
		p.join(r.id)
		return "join"
	}
	what := s.rng.IntN(11)
	switch {
	case what == 0 && p != r.owner:
		r.in[p] = false
		p.do("POST", in(r.id, "leave"), object{}).ok()
		return "leave"
	case what == 1:
		v := []string{"shared", "invited", "joined", "world_readable"}[s.rng.IntN(4)]
		r.owner.set(r.id, "m.room.history_visibility", "", object{"history_visibility": v})
		return v
	case what == 2:
		r.owner.set(r.id, "m.room.topic", "", object{"topic": fmt.Sprint(s.rng.Int())})
		return "topic"
	case what == 3:
		r.owner.set(r.id, "m.room.name", "", object{"name": []string{"", "named"}[s.rng.IntN(2)]})
		return "name"
	case what == 4:
		p.set(r.id, "m.room.member", p.id, object{"membership": "join", "displayname": fmt.Sprint(s.rng.Int())})
		return "display name"
	case what == 5 && len(r.said) > 0:
		at := s.rng.IntN(len(r.said))
		r.owner.do("PUT", in(r.id, "redact", r.said[at], fmt.Sprint("r", txns.Add(1))), object{}).ok()
		r.said = slices.Delete(r.said, at, at+1)
		return "redaction"
	case (what == 6 || what == 7) && len(r.said) > 0:
		typ := []string{"m.read", "m.read.private"}[what-6]
		p.do("POST", in(r.id, "receipt", typ, r.said[s.rng.IntN(len(r.said))]), object{})
		return typ
	}
	r.said = append(r.said, p.say(r.id, "said"))
	return "message"
}

// compare asks both ways until the answers are the same: a worker may be behind the log for a moment, but not for good.
func (s *firstStory) compare(p *person, when string) {
	s.t.Helper()
	limit, lazy := []int{1, 5, 30}[s.rng.IntN(3)], s.rng.IntN(2) == 0
	filter := func(more string) string {
		return fmt.Sprintf(`{"presence":{"types":[]},"room":{"timeline":{"limit":%d%s},"state":{"lazy_load_members":%t%s}}}`, limit, more, lazy, more)
	}
	quick, plain := p.client(filter("")), p.client(filter(`,"not_types":["none.such"]`))
	if s.rng.IntN(3) == 0 {
		quick.extra, plain.extra = "&use_state_after=true", "&use_state_after=true"
	}
	var got, want any
	for range 200 {
		for range 2 { // of both workers, and from memory
			got, want = firstAnswer(s.t, quick), firstAnswer(s.t, plain)
			if !reflect.DeepEqual(got, want) {
				break
			}
		}
		if reflect.DeepEqual(got, want) {
			return
		}
	}
	a, _ := json.MarshalIndent(got, "", " ")
	b, _ := json.MarshalIndent(want, "", " ")
	s.t.Fatalf("%s, limit %d, lazy %t: got\n%s\nwant\n%s", when, limit, lazy, a, b)
}

// firstAnswer is the rooms of a first answer without what tells the time, and with the state in one order.
func firstAnswer(t *testing.T, c *client) any {
	t.Helper()
	var answer struct {
		Rooms any
	}
	if err := json.Unmarshal(c.ask("", 0).ok().raw, &answer); err != nil {
		t.Fatal(err)
	}
	return timeless(answer.Rooms)
}

func timeless(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if key == "age" {
				delete(v, key)
				continue
			}
			v[key] = timeless(value)
			if key != "state" && key != "state_after" {
				continue
			}
			if events, ok := v[key].(map[string]any)["events"].([]any); ok {
				slices.SortFunc(events, func(a, b any) int {
					return cmp.Compare(a.(map[string]any)["event_id"].(string), b.(map[string]any)["event_id"].(string))
				})
			}
		}
	case []any:
		for i := range v {
			v[i] = timeless(v[i])
		}
	}
	return v
}
