package room

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/tidwall/gjson"

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
	st := c.state(roomID)
	for i := range n {
		d := event.Draft{RoomID: id.Room(roomID), Type: "m.room.message", Sender: bert, Content: []byte(fmt.Sprintf(`{"body":"fork %d","msgtype":"m.text"}`, i)),
			Depth: on.Depth + 1, OriginServerTS: time.Now().UnixMilli(), PrevEvents: []id.Event{on.ID},
			AuthEvents: []id.Event{st["m.room.power_levels|"], st["m.room.member|"+bert]}}
		if !on.Rules.RoomIDIsCreateHash {
			d.AuthEvents = append(d.AuthEvents, st["m.room.create|"])
		}
		pdu, err := event.Build(d, on.Rules, two, c.names[two])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pdu)
	}
	return out
}

// forgeRedaction builds a redaction of bert's.
func forgeRedaction(t *testing.T, c *cluster, roomID string, on *roomdb.Event, target id.Event) *event.PDU {
	t.Helper()
	st := c.state(roomID)
	d := event.Draft{RoomID: id.Room(roomID), Type: "m.room.redaction", Sender: bert, Content: []byte(fmt.Sprintf(`{"redacts":%q}`, target)),
		Redacts: target, Depth: on.Depth + 1, OriginServerTS: time.Now().UnixMilli(), PrevEvents: []id.Event{on.ID},
		AuthEvents: []id.Event{st["m.room.create|"], st["m.room.power_levels|"], st["m.room.member|"+bert]}}
	pdu, err := event.Build(d, on.Rules, two, c.names[two])
	if err != nil {
		t.Fatal(err)
	}
	return pdu
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

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
		<-time.After(10 * time.Millisecond)
	}
}
