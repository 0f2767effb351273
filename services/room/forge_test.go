package room

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
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
