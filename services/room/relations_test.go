package room

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/growth"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

func (c *cluster) relate(roomID, sender, typ, relType, parent, more string) (*roomv1.SendResponse, error) {
	content := fmt.Sprintf(`{"m.relates_to":{"rel_type":%q,"event_id":%q}%s}`, relType, parent, more)
	return c.send(roomID, &roomv1.SendRequest{Cause: newCause(sender), Events: []*roomv1.EventIntent{
		{Type: typ, Content: []byte(content), Sender: sender}}})
}

// aggregate is what relates to an event of a room.
func (c *cluster) aggregate(roomID string, eventID string) roomdb.Aggregate {
	c.tb.Helper()
	e := c.event(roomID, id.Event(eventID))
	found, err := c.read.Aggregates(context.Background(), roomdb.AggregateQuery{Reader: anna, UpTo: roomdb.End}, []*roomdb.Event{e})
	if err != nil {
		c.tb.Fatal(err)
	}
	if a := found[e]; a != nil {
		return *a
	}
	return roomdb.Aggregate{}
}

func (c *cluster) threadsOf(roomID, user string) (roots []string) {
	c.tb.Helper()
	r := c.room(roomID)
	threads, err := c.read.Threads(context.Background(), r.Part, r.NID, id.User(user), roomdb.End, 100)
	if err != nil {
		c.tb.Fatal(err)
	}
	for _, t := range threads {
		roots = append(roots, string(t.Root))
	}
	return roots
}

// Client-server API, "Aggregations of child events", of what other servers send: also when it comes before the event that it is about.
func TestRelationsOfOthers(t *testing.T) {
	f := newBranching(t, "11")
	target := f.message(bert)
	edit := f.event(bert, "m.room.message", nil, fmt.Sprintf(`{"body":"* x","m.new_content":{"body":"x"},"m.relates_to":{"rel_type":"m.replace","event_id":%q}}`, target.ID))
	reply := f.event(birgt, "m.room.message", nil, fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, target.ID))
	f.a.take(f.room, two, edit, reply)
	f.a.take(f.room, two, target)
	got := f.a.aggregate(f.room, string(target.ID))
	if got.Edit != f.stored(edit).NID || got.Latest != f.stored(reply).NID || got.Replies != 1 {
		t.Errorf("before its target: %+v", got)
	}
	// What has the wrong form is an event like any other.
	for _, relates := range []string{`"x"`, `{"rel_type":"m.thread"}`, `{"rel_type":5,"event_id":"$x"}`, `{"rel_type":"m.thread","event_id":"x"}`,
		`{"rel_type":"m.thread","event_id":"$\u0000"}`, `{"rel_type":"` + strings.Repeat("x", 300) + `","event_id":"$x"}`,
		`{"rel_type":"m.annotation","event_id":"$x","key":"\u0000"}`, `{"rel_type":"m.annotation","event_id":"$x","key":["x"]}`} {
		p := f.event(bert, "m.room.message", nil, `{"m.relates_to":`+relates+`}`)
		f.a.take(f.room, two, p)
		if got := f.flags(p); got != 0 {
			t.Errorf("%s: flags %d", relates, got)
		}
	}
	// Together with its redaction.
	gone := f.event(birgt, "m.room.message", nil, fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, target.ID))
	redaction := f.event(birgt, "m.room.redaction", nil, fmt.Sprintf(`{"redacts":%q}`, gone.ID), gone)
	f.a.take(f.room, two, gone, redaction)
	if got := f.a.aggregate(f.room, string(target.ID)); got.Replies != 1 || got.Latest != f.stored(reply).NID {
		t.Errorf("with a redacted reply: %+v", got)
	}
	// The redaction comes first.
	late := f.event(birgt, "m.room.message", nil, fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, target.ID))
	f.a.take(f.room, two, f.event(birgt, "m.room.redaction", nil, fmt.Sprintf(`{"redacts":%q}`, late.ID)))
	f.a.take(f.room, two, late)
	if got := f.a.aggregate(f.room, string(target.ID)); got.Replies != 1 || got.Latest != f.stored(reply).NID {
		t.Errorf("with a reply that came after its redaction: %+v", got)
	}
}

// Client-server API, "Querying threads in a room", after history was fetched: threads are there with their roots, of which replies came
// first.
func TestRelationsInHistory(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	root := ok(a.say(roomID, anna, "root")).EventIds[0]
	edit := ok(a.relate(roomID, anna, "m.room.message", "m.replace", root, `,"m.new_content":{"body":"x"}`)).EventIds[0]
	for i := range 25 {
		ok(a.say(roomID, anna, fmt.Sprint(i)))
	}
	reply := ok(a.relate(roomID, anna, "m.room.message", "m.thread", root, "")).EventIds[0]
	ok(a.say(roomID, anna, "last"))
	ok(b.join(roomID, bert, string(one)))
	backfillAll(t, b, roomID)
	for _, c := range []*cluster{a, b} {
		got := c.aggregate(roomID, root)
		if got.Edit != c.event(roomID, id.Event(edit)).NID || got.Latest != c.event(roomID, id.Event(reply)).NID || got.Replies != 1 {
			t.Errorf("history: %+v", got)
		}
		for user, want := range map[string][]string{"": {root}, anna: {root}, bert: nil} {
			if got := c.threadsOf(roomID, user); !slices.Equal(got, want) {
				t.Errorf("threads of %q: %v, want %v", user, got, want)
			}
		}
	}
}

// Client-server API, "Avoiding duplicate annotations" and "Transaction identifiers": the same request is the same annotation, also for
// an owner that has not seen the first one.
func TestAnnotationOfAnotherOwner(t *testing.T) {
	c := newCluster(t, 2)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("11", alice, "public")
	said := ok(c.say(roomID, alice, "x")).EventIds[0]
	req := func() *roomv1.SendRequest {
		return &roomv1.SendRequest{Cause: &roomv1.Cause{UserId: alice, DeviceId: "D", TxnId: "t"}, Events: []*roomv1.EventIntent{
			{Type: "m.reaction", Content: []byte(fmt.Sprintf(`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":"x"}}`, said)), Sender: alice}}}
	}
	first := ok(c.send(roomID, req()))
	c.takeAway(roomID)
	if again := ok(c.send(roomID, req())); !slices.Equal(again.EventIds, first.EventIds) {
		t.Errorf("%v, then %v", first.EventIds, again.EventIds)
	}
	_, err := c.relate(roomID, alice, "m.reaction", "m.annotation", said, "")
	if err != nil {
		t.Error(err) // without a key it is another one
	}
	other := req()
	other.Cause.TxnId = "u"
	_, err = c.send(roomID, other)
	wantCode(t, err, merr.CodeDuplicateAnnotation)
}

// What relates to nothing costs nothing: docs/relations.md, "What is stored". What relates costs as much as a message, one look at the event
// that it relates to, and its rows, however many have related to that event before.
func TestRelationsCostNothing(t *testing.T) {
	const server = "hanse.test"
	c, counter := newCounted(t, nil, server)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("12", alice, "public")
	target := ok(c.say(roomID, alice, "target")).EventIds[0]
	rows := func() (n int64) {
		r := c.room(roomID)
		if err := c.db.For(r.Part).QueryRow(context.Background(), `SELECT (SELECT count(*) FROM relation) + (SELECT count(*) FROM thread)`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	message := each(t, counter, 10, func(i int) error { _, err := c.say(roomID, alice, fmt.Sprint(i)); return err })
	if n := rows(); n != 0 {
		t.Errorf("%d rows for messages that relate to nothing", n)
	}
	related := 0
	for what, relate := range map[string]func(i int) error{
		"an edit": func(int) error {
			_, err := c.relate(roomID, alice, "m.room.message", "m.replace", target, `,"m.new_content":{}`)
			return err
		},
		"a reply": func(int) error {
			_, err := c.relate(roomID, alice, "m.room.message", "m.thread", target, "")
			return err
		},
	} {
		growth.Flat(t, what, 10, 200, 1.1, func(n int) growth.Cost {
			for related < n {
				if err := relate(0); err != nil {
					t.Fatal(err)
				}
				related++
			}
			cost := each(t, counter, 10, relate)
			if cost["statements"] > message["statements"]+2 || cost["rows"] > message["rows"]+4 {
				t.Errorf("%s costs %v, and a message %v", what, cost, message)
			}
			return cost
		})
		related = 0
	}
}
