package room

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// branching is a room of two servers of which the first has gone on by itself: what the second, with bert and birgit, sends
// after the last common event is a branch.
type branching struct {
	t    testing.TB
	n    *network
	a    *cluster
	b    *cluster
	room string
	on   *roomdb.Event // the last common event
	st   map[string]id.Event
	said int
}

func newBranching(t *testing.T, version string) *branching {
	t.Helper()
	return newBranchingAt(t, version, true)
}

// newBranchingAt makes a branching room; apart says whether the first server has gone on.
func newBranchingAt(t testing.TB, version string, apart bool) *branching {
	t.Helper()
	n := newNetwork()
	sides := []*side{
		{c: newFedCluster(t, n, one, 1), name: one, users: []string{anna, "@adam:one.test"}},
		{c: newFedCluster(t, n, two, 1), name: two, users: []string{bert, birgt}},
	}
	f := &branching{t: t, n: n, a: sides[0].c, b: sides[1].c}
	f.room = begin(t, sides, version)
	f.on, f.st = f.b.last(f.room), f.b.state(f.room)
	if apart {
		must[*roomv1.SendResponse](t)(f.a.setState(f.room, anna, "m.room.topic", "", `{"topic":"ours"}`))
	}
	return f
}

// event makes an event of the second server after the last common one, or after others. It is authorised by the state
// there.
func (f *branching) event(sender, typ string, key *string, content string, after ...*event.PDU) *event.PDU {
	f.t.Helper()
	if len(after) == 0 {
		after = []*event.PDU{f.on.PDU}
	}
	return f.b.forgeAfter(f.st, event.Draft{Type: typ, StateKey: key, Sender: id.User(sender), Content: []byte(content),
		OriginServerTS: time.Now().UnixMilli()}, after...)
}

func (f *branching) message(sender string, after ...*event.PDU) *event.PDU {
	f.said++
	return f.event(sender, "m.room.message", nil, fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, f.said), after...)
}

// send gives events to the first server in one request.
func (f *branching) send(pdus ...*event.PDU) []*roomv1.PduResult {
	f.t.Helper()
	return f.a.receive(f.room, two, jsons(pdus)...)
}

// flags are those of an event at the first server.
func (f *branching) flags(p *event.PDU) int32 {
	f.t.Helper()
	return f.stored(p).Flags
}

func (f *branching) stored(p *event.PDU) *roomdb.Event {
	f.t.Helper()
	e, err := f.a.read.EventByID(context.Background(), f.a.room(f.room), p.ID)
	if err != nil || e == nil {
		f.t.Fatalf("%s: %v, %v", p.ID, e, err)
	}
	return e
}

func (f *branching) resolutions() float64 {
	return counter(f.a.workers[0].metrics.memo.WithLabelValues("none"))
}

// The current state by which an event is soft-failed has in it what came before in the same request (server-server API,
// "Soft failure"), also while the resolution of the rest waits.
func TestSoftFailureTogether(t *testing.T) {
	empty, birgit := "", birgt
	for _, version := range []string{"10", "12"} {
		for name, first := range map[string]func(f *branching) *event.PDU{
			"a ban": func(f *branching) *event.PDU {
				return f.event(bert, "m.room.member", &birgit, `{"membership":"ban"}`)
			},
			"their leave": func(f *branching) *event.PDU {
				return f.event(birgt, "m.room.member", &birgit, `{"membership":"leave"}`)
			},
			"power levels": func(f *branching) *event.PDU {
				levels := `{"users":{"@anna:one.test":100,"@bert:two.test":100,"@adam:one.test":50,"@birgit:two.test":50},"events":{"m.room.topic":0},"events_default":60}`
				if version == "12" {
					levels = `{"users":{"@bert:two.test":100,"@adam:one.test":50,"@birgit:two.test":50},"events":{"m.room.topic":0},"events_default":60}`
				}
				return f.event(bert, "m.room.power_levels", &empty, levels)
			},
		} {
			t.Run("v"+version+"/"+name, func(t *testing.T) {
				f := newBranching(t, version)
				against, early := first(f), f.message(birgt)
				other := f.event(bert, "org.example.other", &empty, `{}`)
				for i, r := range f.send(f.message(birgt), other, against, early, f.message(bert, against)) {
					if r.Error != "" {
						t.Errorf("event %d: %s", i, r.Error)
					}
				}
				if got := f.flags(early); got != flagSoftFailed {
					t.Errorf("flags of what came after %s: %d", name, got)
				}
				for _, p := range []*event.PDU{against, other} {
					if got := f.flags(p); got != 0 {
						t.Errorf("flags of %s: %d", p.Type, got)
					}
				}
				f.a.checkResolved(f.room)
				f.a.auditSplit(t, f.room)
			})
		}
	}
}

// A power event that voids another one is resolved before events behind it are judged, although it is none of their auth
// events (room version 2, "State resolution").
func TestPowerEventTogether(t *testing.T) {
	f := newBranching(t, "10")
	carl, birgit, empty := "@carl:two.test", birgt, ""
	join := f.event(carl, "m.room.member", &carl, `{"membership":"join"}`)
	f.st["m.room.member|"+carl] = join.ID
	silence := f.event(birgt, "m.room.power_levels", &empty, `{"users":{"@anna:one.test":100,"@bert:two.test":100,"@adam:one.test":50,"@birgit:two.test":50},"events":{"m.room.topic":0},"events_default":40}`)
	silenced := f.message(carl, join)
	f.send(join, silence)
	f.send(silenced)
	if got := f.flags(silenced); got != flagSoftFailed {
		t.Fatalf("flags under the power levels: %d", got)
	}
	heard := f.message(carl, join)
	f.send(f.event(bert, "org.example.other", &empty, `{}`), f.event(bert, "m.room.member", &birgit, `{"membership":"ban"}`), heard)
	if got := f.flags(heard); got != 0 {
		t.Errorf("flags once who set the power levels was banned: %d", got)
	}
	f.a.checkResolved(f.room)
}

// However many state events of a branch come in one request, the current state is resolved once (room version 2, "State
// resolution"); every event has its place in the timeline, in their order, and takes the place of the one before it.
func TestOneResolutionTogether(t *testing.T) {
	f := newBranching(t, "11")
	var branch []*event.PDU
	key, empty := "", ""
	for i := range 40 {
		key := fmt.Sprint(i / 2)
		if i == 39 {
			key = empty
		}
		e := f.event(bert, "org.example.state", &key, fmt.Sprintf(`{"n":%d}`, i), branch[max(0, i-1):i]...)
		branch = append(branch, e)
	}
	before := f.resolutions()
	for i, r := range f.send(branch...) {
		if r.Error != "" {
			t.Errorf("event %d: %s", i, r.Error)
		}
	}
	// More than one only if the machine is so slow that the draft was ended in between.
	if n := f.resolutions() - before; n < 1 || n > 10 {
		t.Errorf("%g resolutions for 40 events", n)
	}
	tl := f.a.timeline(f.room)
	for i, e := range tl[len(tl)-40:] {
		if e.ID != branch[i].ID || e.Flags != 0 {
			t.Errorf("place %d: %s, flags %d", i, e.ID, e.Flags)
		}
		if i%2 == 1 && i < 38 && e.Replaces != f.stored(branch[i-1]).NID {
			t.Errorf("event %d takes the place of %d", i, e.Replaces)
		}
	}
	f.a.checkResolved(f.room)
	f.a.checkAuth(f.room)

	// What heals the fork is the only end.
	key = "healed"
	ours := f.a.timeline(f.room)
	top := ours[len(ours)-41]
	if r := f.send(f.message(bert, branch[39], top.PDU), f.event(bert, "org.example.state", &key, `{}`, branch[39])); r[0].Error+r[1].Error != "" {
		t.Errorf("%v", r)
	}
	f.a.checkResolved(f.room)
	if extremities := f.a.extremities(f.room); len(extremities) != 2 {
		t.Errorf("extremities %v", extremities)
	}
}

// One event that cannot be judged does not take those with it that came in the same request.
func TestRefusedTogether(t *testing.T) {
	f := newBranching(t, "2")
	other := f.a.create("2", anna, "public")
	for f.a.room(other).Part != f.a.room(f.room).Part {
		other = f.a.create("2", anna, "public")
	}
	claimed := f.a.timeline(other)[0].ID
	first := f.message(bert)
	raw := reforge(t, f.b, f.message(bert), func(e map[string]any) { e["event_id"] = string(claimed) })
	second := f.message(birgt)
	results := f.a.receive(f.room, two, first.JSON, []byte(`{"type":1}`), raw, second.JSON)
	for i, wrong := range []bool{false, true, true, false} {
		if (results[i].Error != "") != wrong {
			t.Errorf("event %d: %q", i, results[i].Error)
		}
	}
	for _, p := range []*event.PDU{first, second} {
		if got := f.flags(p); got != 0 {
			t.Errorf("flags %d", got)
		}
	}
	if results := f.send(first, second, first); results[0].Error+results[1].Error+results[2].Error != "" {
		t.Errorf("once more: %v", results)
	}
	f.a.checkResolved(f.room)
}

// Events that come in the wrong order, and twice, are taken in without asking for what is there.
func TestDisorderTogether(t *testing.T) {
	f := newBranching(t, "11")
	first := f.message(bert)
	second := f.message(bert, first)
	third := f.message(birgt, second)
	asked := f.n.askedFor("get_missing_events")
	results := f.send(third, second, first, second)
	if len(results) != 4 {
		t.Fatalf("%d results", len(results))
	}
	for i, p := range []*event.PDU{third, second, first, second} {
		if r := results[i]; r.EventId != string(p.ID) || r.Error != "" || f.flags(p) != 0 {
			t.Errorf("event %d: %v, flags %d", i, r, f.flags(p))
		}
	}
	if n := f.n.askedFor("get_missing_events") - asked; n != 0 {
		t.Errorf("asked %d times for events that were there", n)
	}
}

// A redaction that comes before its target in one request is applied to it (room version 3, "Handling redactions").
func TestRedactionBeforeTargetTogether(t *testing.T) {
	f := newBranching(t, "10")
	target := f.message(birgt)
	redaction := forgeRedaction(t, f.b, f.room, f.on, target.ID)
	if r := f.send(redaction, target, f.message(bert)); r[0].Error+r[1].Error+r[2].Error != "" {
		t.Errorf("%v", r)
	}
	if e := f.stored(target); e.RedactedBy != f.stored(redaction).NID {
		t.Errorf("redacted by %d", e.RedactedBy)
	}
}

// An event is not lost because the database was away: its sender is to come again. What another server does not answer is
// no reason for that.
func TestRetry(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("read: %w", io.ErrUnexpectedEOF):                                            true,
		fmt.Errorf("%w: %w", errUnavailable, errors.New("x")):                                  true,
		merr.Unavailable("the server is overloaded"):                                           true,
		fmt.Errorf("state: %w", errStale):                                                      true,
		fmt.Errorf("resolve: %w", resolve.ErrBudget):                                           false,
		fmt.Errorf("ask two.test: %w: %w", errUnanswered, context.DeadlineExceeded):            false,
		fmt.Errorf("state after $x: ask two.test: %w: %w", errUnanswered, io.ErrUnexpectedEOF): false,
		fmt.Errorf("state after $x: %w", &fedError{two, 503, nil}):                             false,
		fmt.Errorf("%w: of another room", event.ErrInvalid):                                    false,
	} {
		if got := retry(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}
