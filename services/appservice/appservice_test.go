package appservice

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"hanse/pkg/appservice"
	"hanse/pkg/partition"
)

// Application service API, "Pushing events": the events of rooms and users in a namespace arrive once each, those of a room in their
// order, and no others.
func TestDelivery(t *testing.T) {
	irc, other := newBridge(t, "irc"), newBridge(t, "other")
	w := newWorld(t, irc.as, other.as)
	one, two := w.start("one"), w.start("two")
	w.owner("irc", one, two)
	w.owner("other", one, two)
	a, b, private := w.room("irc1"), w.room("irc2"), w.room("private")
	var inA, inB []string
	for range 20 {
		inA = append(inA, a.say("@anna:"+ours, "x", "y")...)
		inB = append(inB, b.say("@anna:"+ours, "z")...)
		private.say("@anna:"+ours, "not for you")
	}
	ghost := private.say("@_irc_ghost:"+ours, "of a ghost")
	stranger := private.say("@_irc_ghost:elsewhere.test", "of a federated user in the namespace")
	w.has(irc, inA, inB, append(ghost, stranger...))
	for _, e := range irc.got {
		if e.RoomID == "" || e.Type != "m.room.message" || e.Sender == "" || e.Unsigned.Age < 0 {
			t.Errorf("%+v", e)
		}
	}
	if got := other.ids(); len(got) > 0 {
		t.Errorf("the other service got %v", got)
	}
}

// Whoever is killed, each event arrives once by the service's own account, and transactions are repeated byte for byte.
func TestKilledOwner(t *testing.T) {
	irc := newBridge(t, "irc")
	w := newWorld(t, irc.as)
	workers := []*worker{w.start("w0"), w.start("w1")}
	rooms := []*testRoom{w.room("irc1"), w.room("irc2"), w.room("irc3")}
	ids := make([][]string, len(rooms))
	for round := range 3 {
		owner := w.owner("irc", workers...)
		// The service takes transactions, and its answers are lost now and then.
		var n atomic.Int32
		irc.fails(func(rw http.ResponseWriter, r *http.Request) bool {
			if n.Add(1)%3 == 0 {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(rw, "{}")
			return true
		})
		for i := range 30 {
			for j, r := range rooms {
				ids[j] = append(ids[j], r.say("@anna:"+ours, "x", "y")...)
			}
			if i == 15 {
				owner.Kill()
				for j, k := range workers {
					if k == owner {
						workers[j] = w.start(fmt.Sprintf("w%d-%d", j, round))
					}
				}
			}
		}
	}
	irc.works()
	w.has(irc, ids...)
}

// What is sent while its commit is still handed over counts as sent: the next owner does not send it again.
func TestSentWhileHandedOver(t *testing.T) {
	irc := newBridge(t, "irc")
	w := newWorld(t, irc.as)
	k := w.owner("irc", w.start("one"))
	r := w.room("irc1")
	w.has(irc, r.say("@anna:"+ours, "first"))
	entries, err := k.rooms.ReadLog(t.Context(), r.part, 1, 1)
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	b, _ := k.follow.Get(partition.Of("irc"))
	next := proto.CloneOf(entries[0])
	next.Pos = b.Handed(r.part) + 5
	b.stream("irc").offer(newItem(r.part, next))
	w.until("it is not sent", func() bool { return len(irc.ids()) == 2 })
	if pos := w.number(fmt.Sprintf(`SELECT pos[%d] FROM appservice_stream WHERE service_id = 'irc'`, r.part+1)); pos != next.Pos {
		t.Errorf("the service has all up to %d, and %d was sent", pos, next.Pos)
	}
}

// A service that fails, whatever way, gets all in order when it works again.
func TestServiceFails(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500":   func(rw http.ResponseWriter, _ *http.Request) bool { http.Error(rw, "no", 500); return false },
		"hangs": func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return false },
		"breaks": func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(rw, "{")
			return true
		},
		"too late": func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true },
		"redirect": func(rw http.ResponseWriter, r *http.Request) bool {
			http.Redirect(rw, r, "/elsewhere", http.StatusFound)
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			irc, healthy := newBridge(t, "irc"), newBridge(t, "healthy")
			w := newWorld(t, irc.as, healthy.as)
			one := w.start("one", func(c *Config) { c.Timeout = time.Second })
			w.owner("irc", one)
			var asked atomic.Int32
			irc.fails(func(rw http.ResponseWriter, r *http.Request) bool { asked.Add(1); return answer(rw, r) })
			a, b, fine := w.room("irc1"), w.room("irc2"), w.room("healthy")
			var inA, inB, inFine []string
			for range 5 {
				inA, inB = append(inA, a.say("@anna:"+ours, count(40)...)...), append(inB, b.say("@anna:"+ours, count(10)...)...)
				inFine = append(inFine, fine.say("@anna:"+ours, "x")...)
			}
			w.has(healthy, inFine) // nobody else notices
			w.until("it is not asked", func() bool { return asked.Load() > 0 })
			w.until("the failure is not stored", func() bool {
				return w.number(`SELECT count(*) FROM appservice_stream WHERE service_id = 'irc' AND failures > 0 AND last_error <> '' AND failing_since > 0`) == 1
			})
			inA = append(inA, a.say("@anna:"+ours, "more")...)
			irc.works()
			if err := w.bus.WakeAppservice("irc"); err != nil {
				t.Fatal(err)
			}
			w.has(irc, inA, inB)
			w.until("the recovery is not stored", func() bool {
				return w.number(`SELECT count(*) FROM appservice_stream WHERE service_id = 'irc' AND failures = 0 AND body IS NULL AND last_ok > 0`) == 1
			})
			inA = a.say("@anna:"+ours, "served from memory again")
			w.until("it is not served any more", func() bool { ids := irc.ids(); return ids[len(ids)-1] == inA[0] })
		})
	}
}

// A service that was away gets what it missed in full batches, also by another worker than the one that noticed. Positions are
// stored, and no copies of events.
func TestBacklog(t *testing.T) {
	irc := newBridge(t, "irc")
	w := newWorld(t, irc.as)
	one := w.start("one")
	w.owner("irc", one)
	irc.fails(func(rw http.ResponseWriter, _ *http.Request) bool {
		http.Error(rw, "away", http.StatusBadGateway)
		return false
	})
	rooms := []*testRoom{w.room("irc1"), w.room("irc2"), w.room("elsewhere")}
	ids := make([][]string, len(rooms))
	for range 10 {
		for j, r := range rooms {
			ids[j] = append(ids[j], r.say("@anna:"+ours, count(100)...)...)
		}
	}
	w.until("it is not behind", func() bool {
		return w.number(`SELECT count(*) FROM appservice_stream WHERE behind AND body IS NOT NULL`) == 1
	})
	one.Kill()
	two := w.start("two")
	w.owner("irc", two)
	irc.works()
	if err := w.bus.WakeAppservice("irc"); err != nil {
		t.Fatal(err)
	}
	w.has(irc, ids[:2]...)
	irc.mu.Lock()
	n := len(irc.txns)
	irc.mu.Unlock()
	if n > 2000/100+10 {
		t.Errorf("%d transactions", n)
	}
	w.until("it stays behind", func() bool { return w.number(`SELECT count(*) FROM appservice_stream WHERE behind`) == 0 })
}

// Without services nothing is read, and a service begins at the present.
func TestNoServices(t *testing.T) {
	w := newWorld(t)
	one := w.start("one")
	w.room("irc1").say("@anna:"+ours, "x")
	if err := one.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	one.End()
	if n := w.number(`SELECT count(*) FROM appservice_owner`); n > 0 {
		t.Errorf("%d partitions were taken", n)
	}
	irc := newBridge(t, "irc")
	w.registry = appservice.Of(irc.as)
	two := w.start("two")
	w.owner("irc", two)
	if n := w.number(`SELECT count(*) FROM appservice_owner`); n != 1 {
		t.Errorf("%d partitions were taken, want that of the service", n)
	}
	after := w.room("irc2").say("@anna:"+ours, "y")
	w.has(irc, after)
	if b, ok := two.follow.Get(partition.Of("irc")); !ok || b.stream("irc") == nil {
		t.Error("the service is nobody's")
	}
}
