package fedout

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"hanse/pkg/deadletter"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/userdb"
)

// refuse makes a server answer a status to transactions that hold one of the texts.
func (r *remote) refuse(status int, texts ...string) {
	poison := func(_ *http.Request, body []byte) int {
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(string(body), text) }) {
			return status
		}
		return 0
	}
	r.answer.Store(&poison)
}

// lettersOf counts the dead letters of what a server has refused.
func (w *world) lettersOf(r *remote) (n int) {
	w.t.Helper()
	if err := w.shards.For(0).QueryRow(w.t.Context(), `SELECT count(*) FROM dead_letter WHERE consumer = $1`, deadletter.RefusedBy(id.Server(r.name))).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// quoted are event ids as they stand in transactions, none of which is the beginning of another.
func quoted(ids ...string) (out []string) {
	for _, e := range ids {
		out = append(out, `"`+e+`"`)
	}
	return out
}

// Server-server API, "Transactions": a receiver that answers 401 to each transaction with one event in it (one that it
// cannot verify) gets all others in their order, live and after an outage, at the price of a few requests. The event is
// noted as a dead letter.
func TestEventIsRefusedForEver(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			w := newWorld(t)
			a := w.remote()
			r := w.room("r", a.name)
			sent := r.sendN(50)
			a.refuse(status, quoted(sent[17])...)
			w.start("one")
			want := slices.Delete(slices.Clone(sent), 17, 18)
			a.gets(want...)
			if n := a.count(); n > 20 {
				t.Errorf("%d requests until one event of 50 was found", n)
			}

			a.down() // what is sent now comes after an outage
			before := a.count()
			late := r.send("fails")
			w.waitFor("no attempt", func() bool { return a.count() > before })
			late = append(late, r.sendN(30)...)
			a.refuse(status, quoted(sent[17], late[3], late[29])...)
			w.heard(a)
			good := slices.DeleteFunc(slices.Clone(late), func(e string) bool { return e == late[3] || e == late[29] })
			a.gets(good...)
			next := r.send("next")
			a.gets(next...)
			once(t, a, slices.Concat(want, good, next))
			w.waitFor("no dead letters", func() bool { return w.lettersOf(a) == 3 })
		})
	}
}

// An EDU that is refused does not hold up the others.
func TestEDUIsRefusedForEver(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	w.room("r", a.name)
	users := userdb.New(w.shards, w.bus)
	for _, text := range []string{`{"n":1}`, `{"n":2,"odd":true}`, `{"n":3}`} {
		if err := users.QueueEDU(t.Context(), ours, id.Server(a.name), "m.direct_to_device", "", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	a.refuse(http.StatusUnauthorized, "odd")
	w.start("one")
	a.until("the others did not come", func() bool { return slices.Equal(a.edus("m.direct_to_device"), []string{`{"n":1}`, `{"n":3}`}) })
	w.waitFor("rows are left", func() bool { return w.rowsOf("fed_edu") == 0 })
}

// A server that refuses everything is not searched through, and gets everything when that has passed. Events that are
// refused in a row cost a few requests each and do not stop what comes behind them.
func TestServerRefusesEverything(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	sent := r.sendN(40)
	var requests atomic.Int32
	all := func(*http.Request, []byte) int { requests.Add(1); return http.StatusUnauthorized }
	a.answer.Store(&all)
	k := w.start("one")
	w.waitFor("not given up", func() bool { return behindCount(k) > 0 })
	if n := requests.Load(); n > 10 {
		t.Errorf("%d requests to a server that refuses everything", n)
	}
	if n := w.lettersOf(a); n != 0 {
		t.Errorf("%d events are passed over", n)
	}
	a.refuse(http.StatusUnauthorized, quoted(sent[:30]...)...)
	w.waitFor("what comes behind does not arrive", func() bool {
		k.sender.revive(id.Server(a.name)) // it rests as after failures
		return len(a.events()) >= 10
	})
	once(t, a, sent[30:])
	if n := a.count(); n > 30*6+100 {
		t.Errorf("%d requests for 30 events that are refused", n)
	}
}

// A fault of the receiver's own (500) that one event causes at each attempt is taken for a refusal after a while, if
// something else is taken.
func TestEventBreaksReceiver(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	sent := r.sendN(10)
	a.refuse(http.StatusInternalServerError, quoted(sent[4])...)
	k := w.start("one")
	want := slices.Delete(slices.Clone(sent), 4, 5)
	w.waitFor("the others do not arrive", func() bool {
		k.sender.revive(id.Server(a.name))
		return !slices.ContainsFunc(want, func(e string) bool { return !slices.Contains(a.events(), e) })
	})
	inOrder(t, a, want)
	if n := a.count(); n < stubborn {
		t.Errorf("given up after %d attempts", n)
	}
}

// What a server has refused is remembered by whoever has the destination: after the end of a worker the next one reads the log again
// from before the event, and neither sends the event nor looks for it. Who replays a dead letter has it sent again.
func TestRefusalOutlivesWorker(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	sent := r.sendN(20)
	var poisoned, requests atomic.Int32
	poison := func(_ *http.Request, body []byte) int {
		requests.Add(1)
		if strings.Contains(string(body), `"`+sent[7]+`"`) {
			poisoned.Add(1)
			return http.StatusUnauthorized
		}
		return 0
	}
	a.answer.Store(&poison)
	one := w.start("one")
	a.gets(slices.Delete(slices.Clone(sent), 7, 8)...)
	part := partition.Of(a.name)
	w.waitFor("the refusal is not stored", func() bool {
		_, cursor := w.stored(part, r.part)
		return w.rowsOf("destination_refused") == 1 && cursor > 0
	})
	again := func() {
		_, err := w.shards.For(part).Exec(t.Context(), `INSERT INTO destination_behind (part, server_name, log_part, pos) VALUES ($1, $2, $3, 0)`,
			int32(part), a.name, int32(r.part))
		if err != nil {
			t.Fatal(err)
		}
	}
	one.Kill()
	again()
	poisoned.Store(0)
	before := requests.Load()
	two := w.start("two")
	next := r.send("next")
	a.until("the next event does not come", func() bool { return slices.Contains(a.events(), next[0]) })
	if n := poisoned.Load(); n != 0 {
		t.Errorf("the event was sent %d times by the next worker", n)
	}
	if n := requests.Load() - before; n > 5 {
		t.Errorf("%d requests for what was delivered before", n)
	}

	w.waitFor("it does not catch up", func() bool { return w.rowsOf("destination_behind") == 0 })
	if _, err := w.shards.For(part).Exec(t.Context(), `DELETE FROM destination_refused`); err != nil {
		t.Fatal(err)
	}
	again()
	two.sender.wake(part)
	w.waitFor("the replayed event is not sent", func() bool { return poisoned.Load() > 0 })
}
