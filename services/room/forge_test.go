package room

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/roomdb"
)

// forge builds events of bert's that all follow the same event.
func forge(t *testing.T, c *cluster, roomID string, on *roomdb.Event, n int) []*event.PDU {
	t.Helper()
	var out []*event.PDU
	d := draftOn(c, roomID, on)
	for i := range n {
		d.Content, d.OriginServerTS = fmt.Appendf(nil, `{"body":"fork %d","msgtype":"m.text"}`, i), time.Now().UnixMilli()
		out = append(out, c.build(d, on.PDU))
	}
	return out
}

// forgeRedaction builds a redaction of bert's.
func forgeRedaction(t *testing.T, c *cluster, roomID string, on *roomdb.Event, target id.Event) *event.PDU {
	t.Helper()
	d := draftOn(c, roomID, on)
	d.Type, d.Content, d.Redacts = typeRedaction, fmt.Appendf(nil, `{"redacts":%q}`, target), target
	return c.build(d, on.PDU)
}

// draftOn is a message of bert's after another event, with the auth events that it should have.
func draftOn(c *cluster, roomID string, on *roomdb.Event) event.Draft {
	d := event.Draft{Type: "m.room.message", Sender: bert, Content: []byte(`{"body":"x"}`), OriginServerTS: time.Now().UnixMilli()}
	return follow(d, c.state(roomID), on.PDU)
}

// follow gives a draft the place after some events. What else it lacks is what it should be: the time, and the auth events,
// which are those that it needs of a state.
func follow(d event.Draft, st map[string]id.Event, on ...*event.PDU) event.Draft {
	rules := on[0].Rules
	d.RoomID = on[0].RoomID
	var at int64
	for _, p := range on {
		d.PrevEvents, d.Depth, at = append(d.PrevEvents, p.ID), max(d.Depth, p.Depth+1), max(at, p.OriginServerTS+1)
	}
	d.OriginServerTS = cmp.Or(d.OriginServerTS, at)
	if d.AuthEvents != nil {
		return d
	}
	for _, n := range auth.NeededByDraft(&d, rules) {
		if e, ok := st[n.Type+"|"+n.StateKey]; ok && !(rules.RoomIDIsCreateHash && n.Type == typeCreate) {
			d.AuthEvents = append(d.AuthEvents, e)
		}
	}
	return d
}

// build makes an event of a draft, by the rules of another event of its room.
func (c *cluster) build(d event.Draft, on *event.PDU) *event.PDU {
	c.tb.Helper()
	pdu, err := event.Build(d, on.Rules, d.Sender.Server(), c.names[d.Sender.Server()])
	if err != nil {
		c.tb.Fatal(err)
	}
	return pdu
}

// forgeAfter builds an event of a draft after others, as follow says.
func (c *cluster) forgeAfter(st map[string]id.Event, d event.Draft, on ...*event.PDU) *event.PDU {
	c.tb.Helper()
	return c.build(follow(d, st, on...), on[0])
}

// reforge changes an event as its sender's server can, hashes and signature included.
func reforge(t *testing.T, c *cluster, pdu *event.PDU, change func(e map[string]any)) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(pdu.JSON, &e); err != nil {
		t.Fatal(err)
	}
	change(e)
	delete(e, "hashes")
	delete(e, "signatures")
	marshal := func(v any) []byte {
		b, err := canonjson.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sum := sha256.Sum256(marshal(e))
	e["hashes"] = map[string]string{"sha256": signing.Encode(sum[:])}
	essence, err := event.Redact(marshal(e), pdu.Rules)
	if err != nil {
		t.Fatal(err)
	}
	server := pdu.Sender.Server()
	if essence, err = signing.SignJSON(essence, server, c.names[server]); err != nil {
		t.Fatal(err)
	}
	e["signatures"] = json.RawMessage(gjson.GetBytes(essence, "signatures").Raw)
	return marshal(e)
}

func counter(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.Counter.GetValue()
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
		<-time.After(10 * time.Millisecond)
	}
}
