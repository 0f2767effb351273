package app_test

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// client is a device that syncs. Its requests go to the workers in turn, so that each token is used at another worker
// than the one that made it.
type client struct {
	*person
	since  string
	filter string
	extra  string              // more of the query
	events map[string][]string // ids of the timelines' events by room, of all answers
}

func (p *person) client(filter string) *client {
	return &client{person: p, filter: filter, events: make(map[string][]string)}
}

// poll asks once, waiting at the server for so long.
func (c *client) poll(timeout time.Duration) *reply {
	c.t.Helper()
	r := c.ask(c.since, timeout).ok()
	c.since = r.str("next_batch")
	for _, kind := range []string{"join", "leave"} {
		for room, v := range r.get("rooms." + kind).Map() {
			for _, e := range v.Get("timeline.events.#.event_id").Array() {
				c.events[room] = append(c.events[room], e.Str)
			}
		}
	}
	return r
}

func (c *client) ask(since string, timeout time.Duration) *reply {
	c.t.Helper()
	q := url.Values{"timeout": {strconv.FormatInt(timeout.Milliseconds(), 10)}}
	if since != "" {
		q.Set("since", since)
	}
	if c.filter != "" {
		q.Set("filter", c.filter)
	}
	return c.do("GET", v3+"/sync?"+q.Encode()+c.extra, nil)
}

// until polls until an answer is as expected.
func (c *client) until(what string, ok func(*reply) bool) *reply {
	c.t.Helper()
	var last *reply
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		if last = c.poll(5 * time.Second); ok(last) {
			return last
		}
	}
	c.t.Fatalf("no %s within two minutes; last answer: %s", what, last.raw)
	return nil
}

// sees polls until an event was told in a room.
func (c *client) sees(room, event string) *reply {
	c.t.Helper()
	return c.until("event "+event, func(*reply) bool { return slices.Contains(c.events[room], event) })
}

// everywhere waits until every worker has heard of an event: the log reaches a worker a moment after it was written, and
// an answer that does not wait for anything tells of what has come until then.
func (p *person) everywhere(room, event string) {
	p.t.Helper()
	q := url.Values{"filter": {`{"room":{"rooms":["` + room + `"],"timeline":{"limit":100}}}`}}
	for _, base := range p.w.urls {
		eventually(p.t, event+" at "+base, func() bool {
			req, err := http.NewRequest("GET", base+v3+"/sync?"+q.Encode(), nil)
			if err != nil {
				p.t.Fatal(err)
			}
			return slices.Contains(ids(p.request(req).ok().room("join", room).Get("timeline.events")), event)
		})
	}
}

// once checks that no event was told twice.
func (c *client) once() {
	c.t.Helper()
	for room, events := range c.events {
		seen := make(map[string]bool)
		for _, e := range events {
			if seen[e] {
				c.t.Errorf("event %s of %s was told twice", e, room)
			}
			seen[e] = true
		}
	}
}

// room returns a room's part of an answer: kind is join, leave, invite or knock.
func (r *reply) room(kind, room string) gjson.Result {
	return r.get("rooms." + kind + "." + escape(room))
}

// escape makes a path of gjson of a key.
func escape(key string) string {
	return strings.NewReplacer(".", `\.`, "*", `\*`, "?", `\?`, "|", `\|`, "#", `\#`, "@", `\@`, "!", `\!`).Replace(key)
}

// ids are the event ids of a list of events.
func ids(events gjson.Result) []string {
	var out []string
	for _, e := range events.Array() {
		out = append(out, e.Get("event_id").Str)
	}
	return out
}

// event finds an event by type and state key.
func find(events gjson.Result, typ, key string) gjson.Result {
	for _, e := range events.Array() {
		if e.Get("type").Str == typ && e.Get("state_key").Str == key {
			return e
		}
	}
	return gjson.Result{}
}

func (p *person) device() string {
	p.t.Helper()
	return p.do("GET", v3+"/account/whoami", nil).ok().str("device_id")
}
