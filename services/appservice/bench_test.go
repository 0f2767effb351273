package appservice

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"hanse/pkg/appservice"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// several are services with three namespaces each.
func several(b testing.TB, n int) []*appservice.Service {
	b.Helper()
	services := make([]*appservice.Service, n)
	for i := range services {
		var err error
		services[i], err = appservice.Parse(fmt.Appendf(nil, `{id: b%[1]d, url: "http://localhost:1", as_token: as-%[1]d, hs_token: hs-%[1]d, sender_localpart: bot%[1]d, namespaces: {users: [
{exclusive: true, regex: '@_b%[1]d_user_.*:ours\.test'}, {exclusive: true, regex: '@_b%[1]d_channel_.*:ours\.test'}, {exclusive: false, regex: '@_b%[1]d_guest_.*'}]}}`, i), ours)
		if err != nil {
			b.Fatal(err)
		}
	}
	return services
}

// What an event costs the role among 1,000 services with three namespaces each, in one of 1,000 rooms: one that nobody wants, and one
// that a service wants.
func BenchmarkInterest(b *testing.B) {
	in := newInterest(nil, func(context.Context, id.Room) ([]id.Alias, error) { return nil, nil }, []id.Server{ours}, 64, 100_000)
	m := appservice.NewMatcher(several(b, 1000))
	in.match.Store(m)
	for _, c := range []struct {
		name string
		want int
	}{{"nobody", 0}, {"one", 1}} {
		b.Run(c.name, func(b *testing.B) {
			entries := make([]*logv1.Entry, 1000)
			for i := range entries {
				r := &room{id: id.Room(fmt.Sprintf("!%s%d:%s", c.name, i, ours)), nid: int64(i + 1), m: m}
				all := make([]int, c.want)
				for n := range all {
					all[n] = i
				}
				r.all.Store(&all)
				key := roomdb.RoomKey{Part: uint32(i % 64), NID: r.nid}
				in.put(key, r)
				entries[i] = &logv1.Entry{Pos: int64(i), RoomNid: r.nid, RoomId: string(r.id), Body: &logv1.Entry_Event{Event: &logv1.Event{Type: "m.room.message", Sender: fmt.Sprintf("@user.%d:%s", i, ours)}}}
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				e := entries[n%len(entries)]
				services, err := in.of(b.Context(), m, uint32(n%len(entries)%64), e)
				if err != nil || len(wanting(m, services, e)) != c.want {
					b.Fatal(services, err)
				}
				n++
			}
		})
	}
}

// How fast a service that was away gets what it missed.
func BenchmarkBacklog(b *testing.B) {
	irc := newBridge(b, "irc")
	w := newWorld(b, irc.as)
	one := w.start("one")
	w.owner("irc", one)
	irc.fails(func(rw http.ResponseWriter, _ *http.Request) bool {
		http.Error(rw, "away", http.StatusBadGateway)
		return false
	})
	var rooms []*testRoom
	for i := range 50 {
		rooms = append(rooms, w.room(fmt.Sprintf("irc%d", i)))
	}
	const events = 40_000
	for n := 0; n < events; n += 200 {
		rooms[n/200%len(rooms)].say("@anna:"+ours, count(200)...)
	}
	b.ResetTimer()
	start := time.Now()
	irc.works()
	if err := w.bus.WakeAppservice("irc"); err != nil {
		b.Fatal(err)
	}
	for len(irc.ids()) < events {
		time.Sleep(5 * time.Millisecond)
	}
	b.ReportMetric(events/time.Since(start).Seconds(), "events/s")
}

// BenchmarkLag sends 500 events a second for ten seconds, and says how late they arrive.
func BenchmarkLag(b *testing.B) {
	irc := newBridge(b, "irc")
	w := newWorld(b, irc.as)
	one := w.start("one")
	w.owner("irc", one)
	var rooms []*testRoom
	for i := range 20 {
		rooms = append(rooms, w.room(fmt.Sprintf("irc%d", i)))
	}
	warm := rooms[0].say("@anna:"+ours, "x")
	w.has(irc, warm)
	const perSecond, seconds, atOnce = 500, 10, 5
	tick := time.NewTicker(time.Second * atOnce / perSecond)
	n := 0
	for range perSecond * seconds / atOnce {
		<-tick.C
		rooms[n%len(rooms)].say("@anna:"+ours, count(atOnce)...)
		n++
	}
	tick.Stop()
	for len(irc.ids()) < 1+n*atOnce {
		time.Sleep(5 * time.Millisecond)
	}
	irc.mu.Lock()
	var lags []time.Duration
	for i, e := range irc.got[1:] {
		lags = append(lags, irc.when[i+1].Sub(time.UnixMilli(e.TS)))
	}
	irc.mu.Unlock()
	slices.Sort(lags)
	b.ReportMetric(float64(lags[len(lags)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(lags[len(lags)*99/100].Milliseconds()), "p99-ms")
}
