package app_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/services/app"
)

// door is where other servers reach a world. It is the world's server name.
type door struct {
	*httptest.Server
	mu sync.Mutex
	to string
	// instead answers some requests in the world's place: with what it returns, unless that is empty. nil: none.
	instead func(r *http.Request) string
}

func newDoor(t *testing.T) *door {
	d := new(door)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		d.mu.Lock()
		defer d.mu.Unlock()
		r.SetURL(&url.URL{Scheme: "http", Host: d.to})
		r.Out.Host = r.In.Host
	}}
	d.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		instead := d.instead
		d.mu.Unlock()
		if instead != nil {
			if text := instead(r); text != "" {
				_, _ = io.WriteString(w, text)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(d.Close)
	return d
}

func (d *door) answer(instead func(r *http.Request) string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.instead = instead
}

func (d *door) name() string { return strings.TrimPrefix(d.URL, "https://") }

// newWorldBehind is a world of so many processes whose server name is that of a door.
func newWorldBehind(t *testing.T, d *door, processes int) *world {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, make([][]string, processes), func(cfg *app.Config) {
		cfg.ServerNames = []string{d.name()}
		cfg.Federation.CAFiles, cfg.Federation.Allow = []string{ca}, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.to = cfg.Listen.Federation.Address
	})
	w.name = d.name()
	return w
}

// holeStory is a room of two servers, of which the one of the reader lacks a part of the timeline.
type holeStory struct {
	*person
	room, banned string
	// all is the whole room, the oldest first. The reader's server lacks all[from:to], in which a user is banned.
	all      []string
	from, to int
}

// Client-server API, "Getting events for a room", "Event Context" and "Syncing", of a user whose server has not heard of 40
// messages and a ban: as long as nobody tells it of these, and when somebody has.
func TestHole(t *testing.T) {
	there, here := newDoor(t), newDoor(t)
	a, b := newWorldBehind(t, there, 1), newWorldBehind(t, here, 2)
	anna, rival, reader := a.register(t, "anna"), a.register(t, "rival"), b.register(t, "reader")
	s := &holeStory{person: reader, banned: rival.id}
	s.room = anna.create(object{"preset": "public_chat", "room_version": "11"})
	rival.join(s.room)
	reader.do("POST", v3+"/join/"+url.PathEscape(s.room)+"?server_name="+url.QueryEscape(a.name), object{}).ok()
	c := reader.client(`{"room":{"timeline":{"limit":60}}}`)
	members := make(map[string]string)
	first := anna.say(s.room, "before")
	s.told(c, members, first)
	if all := s.pages(s.room, "b", ""); len(all) < 8 || all[len(all)-1] != s.stateEvent("m.room.create", "") {
		t.Errorf("history before the hole: %v", all)
	}
	since := c.since

	var heard atomic.Bool
	here.answer(func(r *http.Request) string {
		if !strings.Contains(r.URL.Path, "/send/") {
			return ""
		}
		if body, err := io.ReadAll(r.Body); err == nil && strings.Contains(string(body), "unheard 39") {
			heard.Store(true)
		}
		return `{"pdus":{}}`
	})
	for i := range 40 {
		if anna.say(s.room, fmt.Sprint("unheard ", i)); i == 20 {
			anna.do("POST", in(s.room, "ban"), object{"user_id": rival.id}).ok()
		}
	}
	eventually(t, "all of it is lost", heard.Load)
	there.answer(func(r *http.Request) string {
		switch {
		case strings.Contains(r.URL.Path, "/get_missing_events/"):
			return `{"events":[]}`
		case strings.Contains(r.URL.Path, "/backfill/"):
			return `{"pdus":[]}`
		}
		return ""
	})
	here.answer(nil)
	last := anna.say(s.room, "heard")
	s.all = anna.pages(s.room, "f", "")
	s.from, s.to = slices.Index(s.all, first)+1, slices.Index(s.all, last)

	told := s.told(c, members, last)
	s.ends("an answer across the open hole", told)
	s.open()
	s.all = append(s.all, anna.say(s.room, "heard, too"))
	s.told(c, members, s.all[s.to+1])
	if members[s.banned] != "ban" {
		t.Errorf("who applies all answers has the banned user as %q", members[s.banned])
	}
	s.open()

	there.answer(nil)
	s.filled(told.Get("timeline.prev_batch").Str)
	if again := c.poll(0).room("join", s.room); again.Exists() {
		t.Errorf("what filled the hole was told as new: %s", again.Raw)
	}
	more := anna.say(s.room, "the hole is filled") // first answers are made anew when something happens
	s.all = append(s.all, more)
	s.told(c, members, more)
	reader.everywhere(s.room, more)
	s.first()
	for range b.urls { // from the memory of either worker, or from PostgreSQL
		members = map[string]string{s.banned: "join"}
		again := reader.client(c.filter)
		again.since = since
		room := again.poll(0).room("join", s.room)
		apply(members, room)
		if got := ids(room.Get("timeline.events")); !slices.Equal(got, s.all[s.from:]) || room.Get("timeline.limited").Bool() {
			s.ends("an answer across the filled hole", room)
		}
		if members[s.banned] != "ban" {
			t.Errorf("who asks again has the banned user as %q", members[s.banned])
		}
	}
}

// told polls until an event was told, and returns what the answer says of the room. Members are kept as a client does that applies
// the state and then the timeline.
func (s *holeStory) told(c *client, members map[string]string, event string) (room gjson.Result) {
	s.t.Helper()
	c.until(event, func(r *reply) bool {
		room = r.room("join", s.room)
		apply(members, room)
		return slices.Contains(c.events[s.room], event)
	})
	return room
}

func apply(members map[string]string, room gjson.Result) {
	for _, e := range append(room.Get("state.events").Array(), room.Get("timeline.events").Array()...) {
		if e.Get("type").Str == "m.room.member" {
			members[e.Get("state_key").Str] = e.Get("content.membership").Str
		}
	}
}

// ends checks that a timeline ends at the hole, with the state up to there.
func (s *holeStory) ends(what string, room gjson.Result) {
	s.t.Helper()
	if got := ids(room.Get("timeline.events")); !slices.Equal(got, s.all[s.to:]) || !room.Get("timeline.limited").Bool() {
		s.t.Errorf("%s: timeline %v, limited %s; want %v", what, got, room.Get("timeline.limited").Raw, s.all[s.to:])
	}
	if ban := find(room.Get("state.events"), "m.room.member", s.banned); ban.Get("content.membership").Str != "ban" {
		s.t.Errorf("%s: the banned user is %q in the state: %s", what, ban.Get("content.membership").Str, room.Get("state").Raw)
	}
}

// open checks what is read of the room while nobody fills the hole.
func (s *holeStory) open() {
	s.t.Helper()
	before, behind := s.all[:s.from], s.all[s.to:]
	for dir, want := range map[string][2][]string{"b": {reversed(behind), reversed(before)}, "f": {before, behind}} {
		a := s.page(s.room, "?limit=100&dir="+dir)
		s.same("a page up to the hole, dir="+dir, a.texts("chunk.#.event_id"), want[0])
		s.same("the pages behind it, dir="+dir, s.pages(s.room, dir, a.str("end")), want[1])
	}
	context := func(event string) *reply {
		return s.do("GET", in(s.room, "context", event)+"?limit=60", nil).ok()
	}
	a := context(behind[0])
	s.same("before the event behind the hole", a.texts("events_before.#.event_id"), nil)
	s.same("behind the event behind the hole", a.texts("events_after.#.event_id"), behind[1:])
	s.same("back from its context", s.pages(s.room, "b", a.str("start")), reversed(before))
	s.banIn("its context", a, true)
	a = context(before[len(before)-1])
	s.same("behind the event before the hole", a.texts("events_after.#.event_id"), nil)
	s.same("before the event before the hole", a.texts("events_before.#.event_id"), reversed(before[:len(before)-1]))
	s.same("forth from its context", s.pages(s.room, "f", a.str("end")), behind)
	s.banIn("its context", a, false)
	for _, filter := range []string{`{"room":{"timeline":{"limit":60}}}`, `{"room":{"timeline":{"limit":60,"not_types":["none.such"]}}}`} {
		room := s.client(filter).poll(0).room("join", s.room)
		s.ends("a first answer with "+filter, room)
		s.same("back from its prev_batch", s.pages(s.room, "b", room.Get("timeline.prev_batch").Str), reversed(before))
	}
}

// filled checks what is read of the room when others tell what is missing, from the hole's token on.
func (s *holeStory) filled(from string) {
	s.t.Helper()
	s.same("back from the hole", s.pages(s.room, "b", from), reversed(s.all[:s.to]))
	s.same("backwards", s.pages(s.room, "b", ""), reversed(s.all))
	s.same("forwards", s.pages(s.room, "f", ""), s.all)
	ban := slices.Index(s.all, s.stateEvent("m.room.member", s.banned))
	for at := s.from - 2; at < len(s.all); at += 7 {
		a := s.do("GET", in(s.room, "context", s.all[at])+"?limit=10", nil).ok()
		what := fmt.Sprintf("the context of event %d of %d", at, len(s.all))
		s.same(what+", before", a.texts("events_before.#.event_id"), reversed(s.all[max(0, at-5):at]))
		end := min(at+6, len(s.all))
		s.same(what+", behind", a.texts("events_after.#.event_id"), s.all[at+1:end])
		s.banIn(what, a, end > ban)
	}
}

// first checks first answers when the hole is filled.
func (s *holeStory) first() {
	s.t.Helper()
	for _, filter := range []string{`{"room":{"timeline":{"limit":60}}}`, `{"room":{"timeline":{"limit":60,"not_types":["none.such"]}}}`} {
		room := s.client(filter).poll(0).room("join", s.room)
		if s.same("a first answer with "+filter, ids(room.Get("timeline.events")), s.all); room.Get("timeline.limited").Bool() {
			s.t.Errorf("a first answer with %s is limited", filter)
		}
	}
}

// stateEvent is the id of an event of the room's state.
func (s *holeStory) stateEvent(typ, key string) string {
	s.t.Helper()
	return find(s.do("GET", in(s.room, "state"), nil).ok().get("@this"), typ, key).Get("event_id").Str
}

// banIn checks whether the user is banned in the state of a context.
func (s *holeStory) banIn(what string, context *reply, banned bool) {
	s.t.Helper()
	membership := find(context.get("state"), "m.room.member", s.banned).Get("content.membership").Str
	if want := map[bool]string{true: "ban", false: "join"}[banned]; membership != want {
		s.t.Errorf("%s: the user is %q, want %q", what, membership, want)
	}
}

func (s *holeStory) same(what string, got, want []string) {
	s.t.Helper()
	if !slices.Equal(got, want) {
		s.t.Errorf("%s: %d events, want %d: %v, want %v", what, len(got), len(want), got, want)
	}
}

func reversed(events []string) []string {
	events = slices.Clone(events)
	slices.Reverse(events)
	return events
}
