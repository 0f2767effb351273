package fedin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
)

// room makes us know a room of which nothing else is known.
func (w *worker) room(roomID id.Room, version string) {
	w.t.Helper()
	part := partition.Of(string(roomID))
	_, err := w.shards.For(part).Exec(w.t.Context(), `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth, joined, joined_local)
		VALUES ($1, $2, $3, $4, 0, '{}', 1, 1, 1)`, int32(part), time.Now().UnixNano(), string(roomID), version)
	must(w.t, err)
}

func (s *server) message(room id.Room, version, text string) *event.PDU {
	s.w.t.Helper()
	rules, _ := roomversion.Get(version)
	pdu, err := event.Build(event.Draft{RoomID: room, Type: "m.room.message", Sender: id.NewUser("eve", s.name), Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text)),
		Depth: 2, OriginServerTS: time.Now().UnixMilli(), PrevEvents: []id.Event{"$prev"}, AuthEvents: []id.Event{"$auth"}}, rules, s.name, s.key)
	must(s.w.t, err)
	return pdu
}

func txnBody(pdus ...*event.PDU) map[string]any {
	raw := make([]json.RawMessage, len(pdus))
	for i, p := range pdus {
		raw[i] = p.JSON
	}
	return map[string]any{"pdus": raw}
}

func txnURI(name string) string { return "/_matrix/federation/v1/send/" + name }

// The rooms of a transaction are worked on side by side; results are by event.
func TestTransactionByRoom(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	w.room("!a:one.example", "11")
	w.room("!b:one.example", "11")
	a, b := s.message("!a:one.example", "11", "a"), s.message("!b:one.example", "11", "b")
	unknown := s.message("!c:one.example", "11", "c")
	both := make(chan struct{}, 2)
	w.owners.answer = func(ctx context.Context, q *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error) {
		both <- struct{}{}
		for len(both) < 2 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
		if q.RoomId == "!b:one.example" {
			return &roomv1.ReceiveResponse{Results: []*roomv1.PduResult{{Error: "no"}}}, nil
		}
		return &roomv1.ReceiveResponse{Results: []*roomv1.PduResult{{}}}, nil
	}
	var results map[id.Event]pduResult
	must(t, json.Unmarshal([]byte(s.do("PUT", txnURI("1"), txnBody(a, b, unknown)).ok().get("pdus").Raw), &results))
	if len(results) != 3 || results[a.ID].Error != "" || results[b.ID].Error != "no" || results[unknown.ID].Error != "Unknown room" {
		t.Errorf("%v", results)
	}
}

// Server-server API, "Transactions": what our own parts fail at is sent again; what is wrong is not.
func TestTransactionFails(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	w.room("!a:one.example", "11")
	pdu := s.message("!a:one.example", "11", "a")
	fail := error(merr.Unknown("broken"))
	w.owners.answer = func(context.Context, *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error) {
		if fail != nil {
			return nil, fail
		}
		return &roomv1.ReceiveResponse{Results: []*roomv1.PduResult{{}}}, nil
	}
	s.do("PUT", txnURI("1"), txnBody(pdu)).fails(503, merr.CodeUnknown)
	fail = nil
	if r := s.do("PUT", txnURI("1"), txnBody(pdu)).ok(); r.get("pdus").Map()[string(pdu.ID)].Raw != "{}" {
		t.Errorf("%s", r.raw)
	}
	fail = merr.Forbidden("never")
	if r := s.do("PUT", txnURI("2"), txnBody(pdu)).ok(); r.get("pdus").Map()[string(pdu.ID)].Get("error").Str != "never" {
		t.Errorf("%s", r.raw)
	}
}

// The work goes on when the sender hangs up, and the next attempt gets its answer without doing it again.
func TestTransactionOutlivesItsRequest(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	w.room("!a:one.example", "11")
	pdu := s.message("!a:one.example", "11", "a")
	begun, goOn := make(chan struct{}), make(chan struct{})
	w.owners.answer = func(ctx context.Context, _ *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error) {
		close(begun)
		select {
		case <-goOn:
			return &roomv1.ReceiveResponse{Results: []*roomv1.PduResult{{}}}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	body := jsonOf(t, txnBody(pdu))
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = w.raw(ctx, "PUT", txnURI("1"), s.sign("PUT", txnURI("1"), "a.example", body), body) // fails, as it is cut
	}()
	<-begun
	hangUp()
	<-gone
	close(goOn)
	if r := s.do("PUT", txnURI("1"), txnBody(pdu)).ok(); r.get("pdus").Map()[string(pdu.ID)].Raw != "{}" {
		t.Errorf("%s", r.raw)
	}
	if n := w.owners.calls(); n != 1 {
		t.Errorf("the room was asked %d times", n)
	}
}

// A transaction that one worker took is known to the others.
func TestTransactionAtAnotherWorker(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	w.room("!a:one.example", "11")
	first := s.do("PUT", txnURI("1"), txnBody(s.message("!a:one.example", "11", "a"))).ok()
	s.w = w.twin()
	if again := s.do("PUT", txnURI("1"), txnBody()).ok(); string(again.raw) != string(first.raw) || w.owners.calls() != 1 {
		t.Errorf("%s, at first %s; %d calls", again.raw, first.raw, w.owners.calls())
	}
}

// Server-server API, "Transactions": a transaction is one between two servers. What the same server sends to another of
// the cluster's names has its own count.
func TestTransactionToAnotherName(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	w.room("!a:one.example", "11")
	s.do("PUT", txnURI("1"), txnBody(s.message("!a:one.example", "11", "a"))).ok()
	content := jsonOf(t, txnBody(s.message("!a:one.example", "11", "b")))
	w.do("PUT", txnURI("1"), s.sign("PUT", txnURI("1"), "b.example", content), content).ok()
	if n := w.owners.calls(); n != 2 {
		t.Errorf("%d of two transactions were taken", n)
	}
}

// Transactions of one server are taken one after the other, those of several side by side; a server that sends more
// than it waits for is told to come again.
func TestTransactionsInTurn(t *testing.T) {
	w := newWorker(t)
	one, two := w.server("one.example"), w.server("two.example")
	w.room("!a:one.example", "11")
	goOn, begun := make(chan struct{}), make(chan string, 10)
	w.owners.answer = func(ctx context.Context, q *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error) {
		begun <- q.Origin
		select {
		case <-goOn:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return &roomv1.ReceiveResponse{Results: []*roomv1.PduResult{{}}}, nil
	}
	replies := make(chan *reply, 10)
	send := func(s *server, name string) {
		body := jsonOf(t, txnBody(s.message("!a:one.example", "11", name)))
		header := s.sign("PUT", txnURI(name), "a.example", body)
		go func() {
			r, err := w.raw(t.Context(), "PUT", txnURI(name), header, body)
			if err != nil {
				t.Error(err)
			}
			replies <- r
		}()
	}
	send(one, "1")
	<-begun
	for i := range transactionsWaiting + 1 {
		send(one, fmt.Sprint("more", i))
	}
	if r := <-replies; r.status != 429 {
		t.Errorf("%d %s", r.status, r.raw)
	}
	send(two, "2")
	if origin := <-begun; origin != "two.example" {
		t.Errorf("%s, whose first transaction is not done", origin)
	}
	close(goOn)
	for range transactionsWaiting + 2 {
		(<-replies).ok()
	}
}

// A room that has too much to do is tried again for a while.
func TestBusyRoom(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	w.room("!a:one.example", "11")
	pdu := s.message("!a:one.example", "11", "a")
	w.owners.answer = func(context.Context, *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error) {
		if w.owners.calls() < 3 {
			return nil, merr.LimitExceeded(1)
		}
		return &roomv1.ReceiveResponse{Results: []*roomv1.PduResult{{}}}, nil
	}
	if r := s.do("PUT", txnURI("1"), txnBody(pdu)).ok(); r.get("pdus").Map()[string(pdu.ID)].Raw != "{}" {
		t.Errorf("%s", r.raw)
	}
}

// Server-server API, "Validating hashes and signatures on received events".
func TestBadSignatureCostsItsEntry(t *testing.T) {
	w := newWorker(t)
	s, forger := w.server("one.example"), w.server("two.example")
	w.room("!a:one.example", "11")
	good := s.message("!a:one.example", "11", "good")
	forged := (&server{w, "one.example", forger.key}).message("!a:one.example", "11", "forged")
	results := s.do("PUT", txnURI("1"), txnBody(good, forged)).ok().get("pdus").Map()
	if results[string(good.ID)].Raw != "{}" || results[string(forged.ID)].Get("error").Str == "" {
		t.Errorf("%v", results)
	}
	// An event may come by way of another server.
	if r := forger.do("PUT", txnURI("2"), txnBody(good)).ok().get("pdus").Map(); r[string(good.ID)].Raw != "{}" {
		t.Errorf("%v", r)
	}
	if w.owners.calls() != 2 || len(w.owners.received[0].Pdus) != 1 {
		t.Errorf("%v", w.owners.received)
	}
}

func TestPruneTransactions(t *testing.T) {
	w := newWorker(t)
	must(t, w.fedin.noteDone(t.Context(), "one.example", "1", []byte(`{}`)))
	must(t, w.fedin.prune(t.Context()))
	if a, err := w.fedin.doneBefore(t.Context(), "one.example", "1"); err != nil || a == nil {
		t.Fatalf("%s %v", a, err)
	}
	w.fedin.cfg.KeepTransactions = -time.Hour
	must(t, w.fedin.prune(t.Context()))
	if a, err := w.fedin.doneBefore(t.Context(), "one.example", "1"); err != nil || a != nil {
		t.Fatalf("%s %v", a, err)
	}
}

// The name of an event that is not taken is what its sender calls it.
func TestNameOf(t *testing.T) {
	w := newWorker(t)
	s := w.server("one.example")
	for _, version := range []string{"3", "4", "11", "12"} {
		rules, _ := roomversion.Get(version)
		room := id.Room("!a:one.example")
		if rules.RoomIDIsCreateHash {
			room = id.Room("!" + strings.Repeat("a", 43))
		}
		pdu := s.message(room, version, "x")
		if got := nameOf(pdu.JSON, rules); got != pdu.ID {
			t.Errorf("version %s: %s, want %s", version, got, pdu.ID)
		}
		broken := []byte(strings.Replace(string(pdu.JSON), `"depth":2`, `"depth":"x"`, 1))
		if got := nameOf(broken, rules); !strings.HasPrefix(string(got), "$") || got == pdu.ID {
			t.Errorf("version %s: %s", version, got)
		}
	}
	if got := nameOf([]byte(`{"event_id":"$x:y"}`), nil); got != "$x:y" {
		t.Error(got)
	}
}

// FuzzTransaction: no body makes us do anything but refuse it, or take it apart.
func FuzzTransaction(f *testing.F) {
	for _, s := range []string{
		`{"pdus":[{"room_id":"!a:b","type":"m.room.message"}],"edus":[{"edu_type":"m.typing","content":{"room_id":"!a:b"}}]}`,
		`{"pdus":[1,null,"x",[]],"edus":[1,null,{}]}`, `{"pdus":{}}`, `[]`, `{"pdus":[{"event_id":"$a:b","room_id":1}]}`,
		`{"edus":[{"edu_type":"m.device_list_update","content":{"user_id":"@a:b","device_id":"X","stream_id":6,"prev_id":[5],"keys":{}}}]}`,
		`{"edus":[{"edu_type":"m.receipt","content":{"!a:b":{"m.read":{"@a:b":{"event_ids":["$x"],"data":{"ts":1}}}}}}]}`,
	} {
		f.Add([]byte(s))
	}
	v1, _ := roomversion.Get("1")
	v12, _ := roomversion.Get("12")
	old := userdb.RemoteList{StreamID: 5, Content: []byte(`{"user_id":"@a:b","stream_id":5,"devices":[{"device_id":"Y","keys":{}}]}`)}
	f.Fuzz(func(t *testing.T, body []byte) {
		tx, err := parseTransaction(body)
		if err != nil {
			if e, ok := merr.As(err); !ok || e.Status >= 500 {
				t.Fatal(err)
			}
			return
		}
		if len(tx.PDUs) > maxPDUs || len(tx.EDUs) > maxEDUs {
			t.Fatal("limits")
		}
		for _, p := range tx.PDUs {
			for _, rules := range []*roomversion.Rules{nil, v1, v12} {
				if name := nameOf(p, rules); name != "" && name[0] != '$' {
					t.Fatalf("name %q", name)
				}
			}
		}
		for _, e := range tx.EDUs {
			var u deviceUpdate
			if decodeEDU(e.Content, &u) == nil {
				l := u.apply(old)
				if !l.Stale && !json.Valid(l.Content) {
					t.Fatalf("%s", l.Content)
				}
			}
			var r receiptContent
			_ = decodeEDU(e.Content, &r)
		}
	})
}
