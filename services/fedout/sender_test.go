package fedout

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// once checks that the events arrived, in this order, each once.
func once(t *testing.T, r *remote, want []string) {
	t.Helper()
	got := r.events()
	if !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("event %d is %s, want %s (%d arrived, want %d)", i, got[i], want[i], len(got), len(want))
			}
		}
		t.Fatalf("%d events arrived, want %d", len(got), len(want))
	}
}

// Server-server API, "Transactions": in order, at most 50 PDUs, one at a time, more at once while one is on its way.
func TestOrderAndBatches(t *testing.T) {
	w := newWorld(t)
	a, b := w.remote(), w.remote()
	both, onlyA := w.room("both", a.name, b.name), w.room("a", a.name)
	w.start("one")

	first := both.send("x")
	a.gets(first...)
	b.gets(first...)

	hold, entered := make(chan struct{}), make(chan struct{})
	var slow atomic.Bool
	wait := func(*http.Request, []byte) int {
		if slow.CompareAndSwap(false, true) {
			close(entered)
			<-hold
		}
		return 0
	}
	a.answer.Store(&wait)
	sent := both.send("y")
	<-entered
	for range 120 {
		sent = append(sent, both.send("z")...)
	}
	b.gets(sent...)
	before := a.transactions()
	close(hold)
	other := onlyA.send("last")
	a.gets(sent...)
	a.gets(other...)
	if n := a.transactions() - before; n > 6 {
		t.Errorf("%d transactions for 121 events that had waited", n)
	}
	if a.most != 1 || b.most != 1 {
		t.Errorf("%d and %d transactions at once", a.most, b.most)
	}
	once(t, b, append(first, sent...))
	inBoth := slices.DeleteFunc(a.events(), func(e string) bool { return e == other[0] })
	if !slices.Equal(inBoth, append(first, sent...)) {
		t.Error("the events of a room arrived out of order")
	}
}

// Who gets what: servers in the room after the event, and those named by also_to; not the sender's own, not ours, not
// those that have left; nothing that is not ours to spread.
func TestRecipients(t *testing.T) {
	w := newWorld(t)
	a, b := w.remote(), w.remote()
	r := w.room("r", a.name)
	w.start("one")
	var forA, forB []string
	toA := func(ids ...string) { forA = append(forA, ids...) }
	toB := func(ids ...string) { forB = append(forB, ids...) }

	toA(r.send("1")...)
	r.append(&logv1.Event{Type: "m.room.message", Sender: "@x:" + a.name, CurrentBefore: 1, CurrentAfter: 1}) // a's own
	// b joins through us: a hears of it, b has it.
	toA(r.member("@u:"+b.name, "@u:"+b.name, "", "join", true))
	e := r.send("2")
	toA(e...)
	toB(e...)
	// A kick of ours: b is told although it is out then.
	e = []string{r.member("@a:"+ours, "@u:"+b.name, "join", "leave", true, b.name)}
	toA(e...)
	toB(e...)
	toA(r.send("3")...)
	// b comes back by a join at a, of which we only hear.
	r.member("@u:"+b.name, "@u:"+b.name, "leave", "join", false)
	e = r.send("4")
	toA(e...)
	toB(e...)
	r.member("@u:"+b.name, "@u:"+b.name, "join", "leave", false)
	toA(r.send("5")...)

	a.gets(forA...)
	b.gets(forB...)
	once(t, a, forA)
	once(t, b, forB)
}

// A destination that is down for a while gets everything when it is back, each event once, and costs nothing
// meanwhile. What it was not entitled to it does not get.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	a, b := w.remote(), w.remote()
	rooms := []*room{w.room("r1", a.name, b.name), w.room("r2", a.name), w.room("r3", a.name, b.name)}
	left := w.room("left", a.name)
	k := w.start("one")
	sent := rooms[0].send("before")
	a.gets(sent...)

	a.down()
	sent = append(sent, rooms[0].send("fails")...)
	w.waitFor("the failure was not noticed", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.requests > 1
	})
	byRoom := map[*room][]string{rooms[0]: sent}
	for range 70 {
		for _, r := range rooms {
			byRoom[r] = append(byRoom[r], r.send("while down")...)
		}
	}
	byRoom[left] = left.send("before the kick")
	byRoom[left] = append(byRoom[left], left.member("@a:"+ours, "@u:"+a.name, "join", "leave", true, a.name))
	left.send("not for a any more")
	b.gets(byRoom[rooms[2]]...)
	w.waitFor("it was not marked as behind", func() bool {
		return w.rowsOf("destination_behind") > 0 && k.sender.bytes.Load() == 0
	})
	requests := a.count()
	rooms[0].sendNothing()
	if a.count() > requests+1 {
		t.Errorf("%d requests to a dead server", a.count()-requests)
	}

	a.up()
	w.heard(a)
	all := 0
	for _, ids := range byRoom {
		a.gets(ids...)
		all += len(ids)
	}
	last := rooms[1].send("after")
	a.gets(last...)
	byRoom[rooms[1]] = append(byRoom[rooms[1]], last...)
	got := a.events()
	if len(got) != all+1 {
		t.Errorf("%d events arrived, want %d", len(got), all+1)
	}
	for r, want := range byRoom {
		mine := slices.DeleteFunc(slices.Clone(got), func(e string) bool { return !strings.HasSuffix(e, strings.Trim(r.id, "!")) })
		if !slices.Equal(mine, want) {
			t.Errorf("%s: %d events, want %d in their order", r.id, len(mine), len(want))
		}
	}
	for _, rows := range []string{"destination_behind", "destination_room", "destination WHERE failures > 0"} {
		w.waitFor("rows are left of "+rows, func() bool { return w.rowsOf(rows) == 0 })
	}
	if n := len(a.events()); n != all+1 {
		t.Errorf("%d events arrived until no row was left, want %d", n, all+1)
	}
}

// sendNothing lets the log move without anything for others.
func (r *room) sendNothing() {
	r.append(&logv1.Event{Type: "m.room.message", Sender: "@x:elsewhere.test", CurrentBefore: 1, CurrentAfter: 1})
}

// It comes back by itself when its pause is over.
func TestRetryAfterPause(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	w.start("one")
	a.down()
	sent := r.sendN(3)
	w.waitFor("no attempt", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.requests > 0 })
	a.up()
	a.gets(sent...)
	once(t, a, sent)
}

// A worker that is killed has delivered some of what it was handed; the next one sends the rest, from the cursors.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	a, b := w.remote(), w.remote()
	r := w.room("r", a.name, b.name)
	one := w.start("one")
	sent := r.sendN(10)
	a.gets(sent...)
	b.down()
	for range 20 {
		sent = append(sent, r.sendN(10)...)
	}
	one.Kill()
	for range 5 {
		sent = append(sent, r.sendN(10)...)
	}
	b.up()
	w.heard(b)
	w.start("two")
	sent = append(sent, r.sendN(10)...)
	a.gets(sent...)
	b.gets(sent...)
	inOrder(t, a, sent)
	inOrder(t, b, sent)
}

// inOrder checks that the first arrivals are in order; repetitions are allowed.
func inOrder(t *testing.T, r *remote, want []string) {
	t.Helper()
	seen := make(map[string]bool)
	var first []string
	for _, e := range r.events() {
		if !seen[e] {
			seen[e] = true
			first = append(first, e)
		}
	}
	if !slices.Equal(first, want) {
		t.Errorf("%s: the first arrivals of %d events are not %d in their order", r.name, len(first), len(want))
	}
}

// Two workers share the destinations; one is killed and the other takes over; then another one comes, and the first
// leaves in good order. Nothing is lost.
func TestTwoWorkers(t *testing.T) {
	w := newWorld(t)
	var all []*remote
	var names []string
	for range 8 {
		r := w.remote()
		all, names = append(all, r), append(names, r.name)
	}
	r := w.room("r", names...)
	one, two := w.start("one"), w.start("two")
	has := func(k *worker) int { return len(k.sender.follow.All()) }
	w.waitFor("the workers do not share", func() bool { return has(one) > 0 && has(two) > 0 && has(one)+has(two) == int(w.shards.P()) })
	sent := r.sendN(20)
	for _, to := range all {
		to.gets(sent...)
	}
	one.Kill()
	for range 10 {
		sent = append(sent, r.sendN(5)...)
	}
	for _, to := range all {
		to.gets(sent...)
		inOrder(t, to, sent)
	}
	three := w.start("three")
	w.waitFor("the third worker gets nothing", func() bool { return has(three) > 0 && has(two)+has(three) == int(w.shards.P()) })
	sent = append(sent, r.sendN(20)...)
	two.Members.SetState("draining")
	if err := two.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	two.End()
	sent = append(sent, r.sendN(20)...)
	for _, to := range all {
		to.gets(sent...)
		inOrder(t, to, sent)
	}
}

// NATS goes away, forgets everything and comes back: what was written meanwhile arrives.
func TestWithoutNATS(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	w.start("one")
	sent := r.send("1")
	a.gets(sent...)
	w.nats.Wipe()
	sent = append(sent, r.sendN(5)...)
	a.gets(sent...)
	w.nats.Start()
	sent = append(sent, r.sendN(5)...)
	a.gets(sent...)
	once(t, a, sent)
}

// A queue that is full makes the destination read the log instead.
func TestSlowDestination(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	hold := make(chan struct{})
	wait := func(*http.Request, []byte) int { <-hold; return 0 }
	a.answer.Store(&wait)
	k := w.start("one", func(c *Config) { c.QueueEvents = 50 })
	var sent []string
	for range 30 {
		sent = append(sent, r.sendN(10)...)
	}
	w.waitFor("the log was not read", func() bool {
		d := k.sender.follow.All()
		return len(d) > 0 && behindCount(k) > 0
	})
	a.up()
	close(hold)
	a.gets(sent...)
	once(t, a, sent)
}

func behindCount(k *worker) (n int) {
	for _, p := range k.sender.follow.All() {
		for _, d := range p.all() {
			d.mu.Lock()
			n += len(d.behind)
			d.mu.Unlock()
		}
	}
	return n
}

// A transaction that the receiver calls bad is taken apart; only what is bad alone is dropped.
func TestRefusedTransaction(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	sent := r.sendN(20)
	poison := func(_ *http.Request, body []byte) int {
		if strings.Contains(string(body), sent[7]) {
			return http.StatusBadRequest
		}
		return 0
	}
	a.answer.Store(&poison)
	w.start("one")
	good := slices.Delete(slices.Clone(sent), 7, 8)
	a.gets(good...)
	more := r.sendN(2)
	a.gets(more...)
	once(t, a, append(good, more...))
}

// A destination that was away for very long gets only the newest event of a busy room.
func TestTooFarBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 5000 events")
	}
	w := newWorld(t)
	a := w.remote()
	busy, calm := w.room("busy", a.name), w.room("calm", a.name)
	a.down()
	k := w.start("one")
	busy.send("x")
	w.waitFor("not behind", func() bool { return behindCount(k) > 0 })
	for range tooFar/500 + 1 {
		busy.sendN(500)
	}
	newest := busy.send("newest")
	quiet := calm.sendN(3)
	w.hasRead(k, busy, calm)
	a.up()
	w.heard(a)
	a.gets(append(newest, quiet...)...)
	next := busy.send("next")
	a.gets(next...)
	// An attempt that was under way when it came back counted fewer events, and sent those.
	if got := a.events(); len(got) > tooFar/2 {
		t.Errorf("%d events arrived, want 5 or not many more", len(got))
	}
}

// EDUs: receipts and device lists from the log, to-device messages from their rows, typing and presence from the bus.
func TestEDUs(t *testing.T) {
	w := newWorld(t)
	a, b := w.remote(), w.remote()
	r, r2 := w.room("r", a.name), w.room("r2", a.name, b.name)
	w.start("one")
	users := userdb.New(w.shards, w.bus)

	sent := r.send("x")
	r.log(receiptEntry("@a:"+ours, sent[0], "m.read"), receiptEntry("@a:"+ours, sent[0], "m.read.private"), receiptEntry("@z:"+a.name, sent[0], "m.read"))
	a.until("no receipt", func() bool { return len(a.edus(eduReceipt)) > 0 })
	want := fmt.Sprintf(`{%q:{"m.read":{"@a:ours.test":{"event_ids":[%q],"data":{"ts":7}}}}}`, r.id, sent[0])
	if got := a.edus(eduReceipt); !sameJSON(got[0], want) || len(got) != 1 {
		t.Errorf("receipts %s, want %s", got, want)
	}

	for i := range 130 {
		key := ""
		if i < 10 {
			key = "same"
		}
		if err := users.QueueEDU(t.Context(), ours, id.Server(a.name), "m.direct_to_device", key, fmt.Appendf(nil, `{"n":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	a.until("to-device messages are missing", func() bool { g := a.edus("m.direct_to_device"); return len(g) > 0 && g[len(g)-1] == `{"n":129}` })
	w.waitFor("acknowledged rows are left", func() bool { return w.rowsOf("fed_edu") == 0 })
	got := a.edus("m.direct_to_device")
	for i := range 120 {
		if want := fmt.Sprintf(`{"n":%d}`, i+10); got[len(got)-120+i] != want {
			t.Fatalf("message %d is %s, want %s", i, got[len(got)-120+i], want)
		}
	}

	for _, in := range []*room{r, r2} {
		in.log(&logv1.Entry{Body: &logv1.Entry_DeviceChange{DeviceChange: &logv1.DeviceChange{UserId: "@a:" + ours, DeviceId: "GONE", StreamId: 4, Local: true}}})
	}
	a.until("no device list", func() bool { return len(a.edus(eduDevices)) > 0 })
	b.until("no device list", func() bool { return len(b.edus(eduDevices)) > 0 })
	want = `{"user_id":"@a:ours.test","device_id":"GONE","stream_id":4,"prev_id":[3],"deleted":true}`
	if got := a.edus(eduDevices); !sameJSON(got[0], want) {
		t.Errorf("device list %s, want %s", got, want)
	}

	if err := w.bus.PublishTyping(r.part, &logv1.Typing{RoomId: r.id, UserId: "@a:" + ours, Typing: true, Local: true}); err != nil {
		t.Fatal(err)
	}
	a.until("no typing", func() bool { return len(a.edus(eduTyping)) > 0 })
	if got, want := a.edus(eduTyping)[0], fmt.Sprintf(`{"room_id":%q,"user_id":"@a:ours.test","typing":true}`, r.id); !sameJSON(got, want) {
		t.Errorf("typing %s, want %s", got, want)
	}
	_, err := w.shards.For(0).Exec(t.Context(), `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, room_version, membership, event_nid, event_id, sender, pos, seq)
		VALUES ($1, '@a:ours.test', $2, $3, $4, '10', 'join', 1, '$e', '@a:ours.test', 1, 1)`, partOf("@a:ours.test"), r2.id, int32(r2.part), r2.nid)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.bus.PublishPresence(&logv1.Presence{UserId: "@a:" + ours, Presence: "online", CurrentlyActive: true, Local: true}); err != nil {
		t.Fatal(err)
	}
	b.until("no presence", func() bool { return len(b.edus(eduPresence)) > 0 })
	if got := b.edus(eduPresence)[0]; !strings.Contains(got, `"presence":"online"`) {
		t.Errorf("presence %s", got)
	}
	if n := len(b.edus(eduTyping)) + len(b.edus("m.direct_to_device")) + len(b.edus(eduReceipt)); n != 0 {
		t.Errorf("%d EDUs that were for others", n)
	}
}

// What must arrive waits for the destination: to-device messages, device lists, receipts.
func TestEDUsAfterOutage(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	k := w.start("one")
	a.down()
	sent := r.send("x")
	w.waitFor("not behind", func() bool { return behindCount(k) > 0 })
	users := userdb.New(w.shards, w.bus)
	if err := users.QueueEDU(t.Context(), ours, id.Server(a.name), "m.direct_to_device", "k", []byte(`{"n":1}`)); err != nil {
		t.Fatal(err)
	}
	r.log(&logv1.Entry{Body: &logv1.Entry_DeviceChange{DeviceChange: &logv1.DeviceChange{UserId: "@a:" + ours, DeviceId: "D", StreamId: 1, Local: true}}},
		receiptEntry("@a:"+ours, sent[0], "m.read"))
	a.up()
	w.heard(a)
	a.gets(sent...)
	for _, typ := range []string{"m.direct_to_device", eduDevices, eduReceipt} {
		a.until("no "+typ, func() bool { return len(a.edus(typ)) == 1 })
	}
}

func receiptEntry(user, event, typ string) *logv1.Entry {
	return &logv1.Entry{Body: &logv1.Entry_Receipt{Receipt: &logv1.Receipt{UserId: user, EventId: event, Type: typ, Ts: 7, Local: strings.HasSuffix(user, ours)}}}
}

func sameJSON(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return string(p) == string(q)
}

func partOf(name string) int32 { return int32(partition.Of(name)) }
