package peer

import (
	"encoding/json"
	"net/http"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
)

// send takes a transaction (server-server API, "Transactions"). What it carries beside events is let go.
func (p *Peer) send(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return merr.NotJSON(err.Error())
	}
	p.Booked(func(b *Book) {
		b.Transactions++
		b.PDUs += int64(len(body.PDUs))
		b.Told[id.Server(r.Host)] = true
	})
	results := make(map[id.Event]any)
	for _, raw := range body.PDUs {
		pdu, err := p.hear(raw)
		if pdu == nil {
			continue // nobody can say what to call it
		}
		p.note(pdu.ID, err)
		result := map[string]string{}
		if err != nil {
			result["error"] = err.Error()
			p.cfg.Log.Info("event refused", "event", pdu.ID, "err", err)
		}
		results[pdu.ID] = result
	}
	return answer(w, map[string]any{"pdus": results})
}

// hear takes an event, unless the peer is deaf to it.
func (p *Peer) hear(raw []byte) (*event.PDU, error) {
	if p.deaf.Load() {
		return event.Parse(raw, p.room.Rules)
	}
	pdu, _, err := p.take(raw)
	return pdu, err
}

func (p *Peer) note(e id.Event, err error) {
	p.Booked(func(b *Book) {
		if _, known := b.Came[e]; !known && len(b.Came) < maxBooked {
			b.Came[e] = time.Now()
		}
		if err == nil {
			delete(b.Refused, e)
		} else if len(b.Refused) < maxBooked {
			b.Refused[e] = err.Error()
		}
	})
}
