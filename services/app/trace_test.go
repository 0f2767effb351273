package app_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/telemetry/telemetrytest"
	"hanse/services/app"
)

// A message's trace: the request at a client worker, the call of the owner, the draft, the append and the commit of the
// batch there, the way over the bus, and the answer of a poll at a sync worker. Only the message's request is traced.
func TestTraceOfMessage(t *testing.T) {
	collector := telemetrytest.New(t)
	front, back := []string{"client", "sync"}, []string{"room", "fedout", "fedin"}
	w := newWorldOf(t, [][]string{back, back, front, front}, func(cfg *app.Config) {
		cfg.Tracing.Endpoint, cfg.Tracing.Ratio = collector.Endpoint, 0
	})
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client("")
	for range w.urls {
		c.poll(0) // at each of the two: what is read from PostgreSQL brings no trace
	}

	traceID := strings.Repeat("ab", 16)
	event := anna.traced(traceID, room)
	c.until("message", func(*reply) bool { return slices.Contains(c.events[room], event) })

	spans := map[string]telemetrytest.Span{}
	want := []string{"room.build", "room.append", "room.commit", "bus.deliver", "sync.answer"}
	eventually(t, "the spans arrive", func() bool {
		for _, s := range collector.Spans() {
			if s.Trace == traceID {
				spans[s.Name] = s
			}
		}
		return !slices.ContainsFunc(want, func(name string) bool { return spans[name].ID == "" })
	})
	request := spans["PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}"]
	call := spans["hanse.room.v1.Room/Send"] // the owner's side ends first; both have this name
	for _, s := range collector.Spans() {
		if s.Trace != traceID {
			t.Errorf("%s is traced", s.Name)
		}
		if s.Name == call.Name && s.Worker == spans["room.append"].Worker {
			call = s
		}
	}
	if request.ID == "" || request.Parent != strings.Repeat("cd", 8) || request.Worker == call.Worker {
		t.Errorf("request %+v, call %+v", request, call)
	}
	for name, parent := range map[string]telemetrytest.Span{"room.build": call, "room.append": call, "room.commit": spans["room.append"],
		"bus.deliver": spans["room.append"], "sync.answer": spans["bus.deliver"]} {
		if s := spans[name]; parent.ID == "" || s.Parent != parent.ID {
			t.Errorf("the parent of %+v is not %+v", s, parent)
		}
	}
	if append, commit := spans["room.append"], spans["room.commit"]; !slices.Contains(append.Links, commit.ID) || !slices.Contains(commit.Links, append.ID) {
		t.Errorf("not linked: %+v, %+v", append, commit)
	}
	if s := spans["sync.answer"]; len(s.Links) != 1 || s.Worker == call.Worker {
		t.Errorf("answer %+v", s)
	}
}

// traced says something in a request whose caller traces it.
func (p *person) traced(traceID, room string) (event string) {
	p.t.Helper()
	url := p.w.urls[0] + in(room, "send", "m.room.message", "traced")
	req, err := http.NewRequestWithContext(p.t.Context(), "PUT", url, strings.NewReader(`{"msgtype":"m.text","body":"follow me"}`))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("traceparent", "00-"+traceID+"-"+strings.Repeat("cd", 8)+"-01")
	return p.request(req).ok().str("event_id")
}
