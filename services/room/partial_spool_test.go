package room

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	roomv1 "hanse/proto/room/v1"
)

// The spool is an unlogged table, which is empty after PostgreSQL has recovered: the members are fetched again, rather than
// left out.
func TestPartialSpoolLost(t *testing.T) {
	var once sync.Once
	var b *cluster
	_, a, b := newPartialClusters(t, 1, func(step string) {
		if step == "store" {
			once.Do(func() {
				if b.rows("partial_spool") < 20 {
					t.Error("nothing is in the spool")
				}
				if _, err := b.db.For(0).Exec(context.Background(), `TRUNCATE partial_spool`); err != nil {
					t.Error(err)
				}
			})
		}
	})
	roomID := a.create("11", anna, "public")
	populate(t, a, roomID, one, 30)
	must[*roomv1.SendResponse](t)(b.join(roomID, bert, string(one)))
	b.whole(roomID)
	carry(b, a, two, roomID, 0)
	auditPartial(t, a, b, roomID)
}

// Depths are what their senders say (server-server API, "PDUs"): members are all there, and none is held in memory meanwhile, if
// what they cite comes after them in the order of depths.
func TestPartialDepthsLie(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	key, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	p.n.mu.Lock()
	p.n.strangers = key
	p.n.mu.Unlock()
	st, on := p.a.state(p.room), p.a.last(p.room).PDU
	var names, cited []id.Event
	var raw []json.RawMessage
	for _, e := range p.a.stateEvents(p.room) {
		names, raw = append(names, e.ID), append(raw, json.RawMessage(e.JSON))
	}
	want := make(map[string]id.Event)
	for i := range readChunk + 200 {
		user := fmt.Sprintf("@someone%d:elsewhere.test", i)
		join := func(depth int64, st map[string]id.Event) *event.PDU {
			d := follow(event.Draft{Type: typeMember, StateKey: &user, Sender: id.User(user), Content: fmt.Appendf(nil, `{"membership":"join","displayname":"%d"}`, depth)}, st, on)
			d.Depth = depth
			pdu, err := event.Build(d, on.Rules, "elsewhere.test", key)
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, json.RawMessage(pdu.JSON))
			return pdu
		}
		first := join(maxDepth, st)
		own := map[string]id.Event{"m.room.member|" + user: first.ID}
		for _, key := range []string{"m.room.create|", "m.room.power_levels|", "m.room.join_rules|"} {
			own[key] = st[key]
		}
		last := join(1, own)
		want[user] = last.ID
		names, cited = append(names, last.ID), append(cited, first.ID)
	}
	p.n.lie(map[string]func([]string, url.Values) any{
		"state_ids": lists(map[string][]id.Event{"pdu_ids": names, "auth_chain_ids": cited}),
		"state":     func([]string, url.Values) any { return map[string]any{"pdus": raw, "auth_chain": []any{}} },
	})
	p.enter()
	p.release()
	p.b.wholeWithin(p.room, 10*time.Minute) // thousands of signatures
	got := p.b.state(p.room)
	for user, name := range want {
		if got["m.room.member|"+user] != name {
			t.Fatalf("%s is %q, not %s", user, got["m.room.member|"+user], name)
		}
	}
	p.b.filled()
	p.b.auditSplit(t, p.room)
}
