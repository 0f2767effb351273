package peer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/tools/hugeroom"
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

// hear takes an event; a deaf peer keeps it for [Peer.CatchUp].
func (p *Peer) hear(raw []byte) (*event.PDU, error) {
	if !p.deaf.Load() {
		pdu, _, err := p.takeRaw(raw)
		return pdu, err
	}
	pdu, err := p.parse(raw)
	if err != nil {
		return pdu, err
	}
	p.keptMu.Lock()
	defer p.keptMu.Unlock()
	if _, ok := p.kept[pdu.ID]; !ok && len(p.kept) >= maxBooked {
		return pdu, merr.Unavailable("too much to keep")
	}
	p.kept[pdu.ID] = pdu
	return pdu, nil
}

// CatchUp puts the events into the room that came while the peer was deaf, each after those that it names. Those whose
// place in the room is not known yet are kept; their number is returned. One that the room does not allow is an error: a
// server that is right sends none.
func (p *Peer) CatchUp() (left int, err error) {
	p.keptMu.Lock()
	defer p.keptMu.Unlock()
	pdus := slices.SortedFunc(maps.Values(p.kept), func(a, b *event.PDU) int {
		return cmp.Or(cmp.Compare(a.Depth, b.Depth), cmp.Compare(a.ID, b.ID))
	})
	err = p.Room(func(room *hugeroom.Room) error {
		for _, pdu := range pdus { // an event is deeper than those that it names
			if _, unknown := room.Known(pdu.PrevEvents); len(unknown) > 0 {
				continue
			}
			if _, err := take(room, pdu); err != nil {
				return fmt.Errorf("event %s, a %s of %s: %w", pdu.ID, pdu.Type, pdu.Sender, err)
			}
			delete(p.kept, pdu.ID)
		}
		return nil
	})
	return len(p.kept), err
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
