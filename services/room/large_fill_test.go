package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"hanse/pkg/await"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	roomv1 "hanse/proto/room/v1"
)

// crowdServers is how many servers a crowd is from at most.
const crowdServers = 10_000

// crowd lets a cluster's room have many members of many servers, of which only its answers to other servers know: what
// state and state_ids are. All of the servers have one key.
func crowd(tb testing.TB, n *network, c *cluster, roomID string, members int) {
	tb.Helper()
	st := c.state(roomID)
	on := c.last(roomID)
	key, err := signing.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	server := func(i int) id.Server {
		return id.Server(fmt.Sprintf("server%d.test", i%min(crowdServers, 1+members/35)))
	}
	pdus := make([]*event.PDU, members)
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < members; i += workers {
				user := fmt.Sprintf("@someone%d:%s", i, server(i))
				pdu, err := event.Build(event.Draft{RoomID: id.Room(roomID), Type: typeMember, StateKey: &user, Sender: id.User(user),
					Content: fmt.Appendf(nil, `{"avatar_url":"mxc://%s/%024d","displayname":"Somebody %d","membership":"join"}`, server(i), i, i),
					Depth:   on.Depth + int64(i%7), OriginServerTS: on.OriginServerTS + int64(i), PrevEvents: []id.Event{on.ID},
					AuthEvents: []id.Event{st["m.room.create|"], st["m.room.power_levels|"], st["m.room.join_rules|"]}}, on.Rules, server(i), key)
				if err != nil {
					tb.Error(err)
					return
				}
				pdus[i] = pdu
			}
		})
	}
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
	n.mu.Lock()
	n.strangers = key
	n.mu.Unlock()
	n.lie(map[string]func([]string, url.Values) any{
		"state_ids": func([]string, url.Values) any {
			var names []id.Event
			for _, e := range c.stateEvents(roomID) {
				if e.StateKey == nil || *e.StateKey != bert {
					names = append(names, e.ID)
				}
			}
			return chunked(func(each func(any)) {
				for _, e := range names {
					each(e)
				}
				for _, p := range pdus {
					each(p.ID)
				}
			}, "pdu_ids", "auth_chain_ids")
		},
		"state": func([]string, url.Values) any {
			return chunked(func(each func(any)) {
				for _, raw := range raws(c.stateEvents(roomID)) {
					each(raw)
				}
				for _, p := range pdus {
					each(json.RawMessage(p.JSON))
				}
			}, "pdus", "auth_chain")
		},
	})
}

// chunked writes an object of two lists, the second of which is empty, as it comes over the wire.
func chunked(all func(each func(any)), list, empty string) chunks {
	var out chunks
	b := fmt.Appendf(nil, `{%q:[],%q:[`, empty, list)
	first := true
	all(func(v any) {
		if !first {
			b = append(b, ',')
		}
		first = false
		switch v := v.(type) {
		case json.RawMessage:
			b = append(b, v...)
		case id.Event:
			b = strconv.AppendQuote(b, string(v))
		}
		if len(b) > 32<<10 {
			out = append(out, b)
			b = nil
		}
	})
	return append(out, append(b, "]}"...))
}

// pace is how often somebody writes in the neighbour.
const pace = 10 * time.Millisecond

// paced writes into a room until something happens, and returns what each message took, sorted.
func paced(t *testing.T, c *cluster, roomID string, until <-chan struct{}) (took []time.Duration) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		start := time.Now()
		if _, err := c.say(roomID, bert, "hello"); err != nil {
			t.Error(err)
			return nil
		}
		took = append(took, time.Since(start))
		select {
		case <-until:
			slices.Sort(took)
			return took
		case <-tick.C:
		}
	}
}

// after closes a channel in some time.
func after(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

// A room of many members (as many as HANSE_MEMBERS says) fills in beside a room of the same partition: it is what it is
// elsewhere, and no commit that the neighbour may wait for is large. It tells what the neighbour noticed, and what it cost.
func TestLargeFill(t *testing.T) {
	members := 4200 // more than a block of the auth graph has
	if text := os.Getenv("HANSE_MEMBERS"); text != "" {
		var err error
		if members, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	g := newBarrier("ids")
	n, a, b := newPartialClusters(t, 1, g.fill)
	t.Cleanup(g.release)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	crowd(t, n, a, roomID, members)
	neighbour := b.create("11", bert, "public")
	for b.room(neighbour).Part != a.room(roomID).Part {
		neighbour = b.create("11", bert, "public")
	}
	quiet := paced(t, b, neighbour, after(time.Second))
	ok(b.join(roomID, bert, string(one)))
	<-g.reached

	rows := b.workers[0].metrics.rows
	commits, small := observed(rows, 128)
	own, db := b.cpu()
	var mem, memAfter runtime.MemStats
	runtime.ReadMemStats(&mem)
	start := time.Now()
	g.release()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.wholeWithin(roomID, 30*time.Minute)
	}()
	busy := paced(t, b, neighbour, done)
	took := time.Since(start)
	ownAfter, dbAfter := b.cpu()
	runtime.ReadMemStats(&memAfter)

	each := func(d time.Duration) time.Duration { return d / time.Duration(members) }
	t.Logf("%d members after %v; CPU for each: %v in Go, %v in PostgreSQL; %d allocations of %d bytes", members, took.Round(time.Millisecond),
		each(ownAfter-own), each(dbAfter-db), (memAfter.Mallocs-mem.Mallocs)/uint64(members), (memAfter.TotalAlloc-mem.TotalAlloc)/uint64(members))
	for name, ds := range map[string][]time.Duration{"quiet": quiet, "beside it": busy} {
		t.Logf("a send in the neighbour, %s: p50 %v p90 %v p99 %v max %v of %d", name, at(ds, 50), at(ds, 90), at(ds, 99), ds[len(ds)-1], len(ds))
	}
	r, byServer := b.room(roomID), 0
	err := b.db.For(r.Part).QueryRow(context.Background(), `SELECT sum(joined) FROM room_server WHERE part = $1 AND room_nid = $2`,
		int32(r.Part), r.NID).Scan(&byServer)
	if err != nil || r.Joined != members+2 || byServer != members+2 {
		t.Errorf("%d members, %d by server, %v", r.Joined, byServer, err)
	}
	commitsAfter, smallAfter := observed(rows, 128)
	if all, of := smallAfter-small, commitsAfter-commits; all != of || of < uint64(members/outlierChunk) {
		t.Errorf("%d of %d commits are small", all, of)
	}
	firstFork(t, a, b, roomID, members)
}

// firstFork forks a large room that was joined, for the first time. Its auth graph is at hand by then, and stored in blocks.
func firstFork(t *testing.T, a, b *cluster, roomID string, members int) {
	t.Helper()
	ok := must[*roomv1.SendResponse](t)
	r := b.room(roomID)
	await.Nil(t, time.Minute, "the auth graph is stored", func() error {
		var events int
		err := b.db.For(r.Part).QueryRow(context.Background(), `SELECT count(*) * 4096 FROM auth_block WHERE part = $1 AND room_nid = $2`,
			int32(r.Part), r.NID).Scan(&events)
		if err == nil && (events == 0 || events < members-4096) {
			err = fmt.Errorf("%d events in blocks", events)
		}
		if err == nil && b.workers[0].graphs.Len() == 0 {
			err = errors.New("no graph is kept")
		}
		return err
	})
	before := ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"theirs"}`)).Pos - 1
	ok(b.say(roomID, bert, "ours"))
	own, db := b.cpu()
	start := time.Now()
	carry(a, b, one, roomID, before)
	took := time.Since(start)
	ownAfter, dbAfter := b.cpu()
	t.Logf("the first fork after %v; CPU: %v in Go, %v in PostgreSQL", took.Round(time.Millisecond), ownAfter-own, dbAfter-db)
	if extremities := len(b.room(roomID).Extremities); extremities != 2 {
		t.Errorf("%d extremities", extremities)
	}
}

// observed is how many observations a histogram has, and how many of them are at most as large as the bound of a bucket.
func observed(h prometheus.Histogram, bound float64) (all, small uint64) {
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		panic(err)
	}
	for _, b := range m.Histogram.Bucket {
		if b.GetUpperBound() == bound {
			small = b.GetCumulativeCount()
		}
	}
	return m.Histogram.GetSampleCount(), small
}
