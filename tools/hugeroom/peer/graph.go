package peer

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/tools/hugeroom"
)

// pduList writes events as a JSON array.
func pduList(w io.Writer, name string, pdus []*event.PDU) error {
	out := bufio.NewWriterSize(w, 64<<10)
	_, _ = out.WriteString(name + "[") // a bufio.Writer keeps its first error for Flush
	for i, p := range pdus {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		_, _ = out.Write(p.JSON)
	}
	_ = out.WriteByte(']')
	return out.Flush()
}

func object(w io.Writer, lists ...any) error {
	for i := 0; i < len(lists); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		if err := pduList(w, sep+strconv.Quote(lists[i].(string))+":", lists[i+1].([]*event.PDU)); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "}")
	return err
}

func (p *Peer) inRoom(r *http.Request) error {
	if r.PathValue("room") != string(p.room.ID) {
		return merr.NotFound("Unknown room")
	}
	return nil
}

// find locks the room and finds an event in it.
func (p *Peer) find(eventID string, do func(n int) error) error {
	return p.Room(func(room *hugeroom.Room) error {
		n := room.Number(id.Event(eventID))
		if n == 0 {
			return merr.NotFound("Unknown event")
		}
		return do(n)
	})
}

func (p *Peer) event(w http.ResponseWriter, r *http.Request) error {
	var pdu *event.PDU
	err := p.find(r.PathValue("event"), func(n int) error { pdu = p.room.PDU(n); return nil })
	if err != nil {
		return err
	}
	return answer(w, map[string]any{"origin": r.Host, "origin_server_ts": time.Now().UnixMilli(), "pdus": []json.RawMessage{pdu.JSON}})
}

func (p *Peer) eventAuth(w http.ResponseWriter, r *http.Request) error {
	if err := p.inRoom(r); err != nil {
		return err
	}
	var chain []*event.PDU
	err := p.find(r.PathValue("event"), func(n int) error { chain = p.room.PDUs(p.room.AuthChain(n)); return nil })
	if err != nil {
		return err
	}
	return object(w, "auth_chain", chain)
}

// stateAt returns the state before the event that the query names, and its auth chain.
func (p *Peer) stateAt(r *http.Request) (state, chain []*event.PDU, err error) {
	if err := p.inRoom(r); err != nil {
		return nil, nil, err
	}
	err = p.find(r.URL.Query().Get("event_id"), func(n int) error {
		prev, _ := p.room.Known(p.room.PDU(n).PrevEvents)
		before, err := p.room.Before(prev...)
		if err != nil {
			return err
		}
		numbers := hugeroom.Numbers(before)
		state, chain = p.room.PDUs(numbers), p.room.PDUs(p.room.AuthChain(numbers...))
		return nil
	})
	return state, chain, err
}

func (p *Peer) state(w http.ResponseWriter, r *http.Request) error {
	state, chain, err := p.stateAt(r)
	if err != nil {
		return err
	}
	return object(w, "pdus", state, "auth_chain", chain)
}

func (p *Peer) stateIDs(w http.ResponseWriter, r *http.Request) error {
	state, chain, err := p.stateAt(r)
	if err != nil {
		return err
	}
	return answer(w, map[string]any{"pdu_ids": names(state), "auth_chain_ids": names(chain)})
}

func names(pdus []*event.PDU) []id.Event {
	out := make([]id.Event, len(pdus))
	for i, p := range pdus {
		out[i] = p.ID
	}
	return out
}

const (
	maxMissing  = 20
	maxBackfill = 100
)

func (p *Peer) missing(w http.ResponseWriter, r *http.Request) error {
	if err := p.inRoom(r); err != nil {
		return err
	}
	var body struct {
		Earliest []id.Event `json:"earliest_events"`
		Latest   []id.Event `json:"latest_events"`
		Limit    int        `json:"limit"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return merr.NotJSON(err.Error())
	}
	var found []*event.PDU
	err := p.Room(func(room *hugeroom.Room) error {
		found = room.PDUs(room.Missing(body.Earliest, body.Latest, min(max(body.Limit, 1), maxMissing)))
		return nil
	})
	if err != nil {
		return err
	}
	return object(w, "events", found)
}

func (p *Peer) backfill(w http.ResponseWriter, r *http.Request) error {
	if err := p.inRoom(r); err != nil {
		return err
	}
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		return merr.InvalidParam("limit")
	}
	var from []id.Event
	for _, v := range r.URL.Query()["v"] {
		from = append(from, id.Event(v))
	}
	var found []*event.PDU
	err = p.Room(func(room *hugeroom.Room) error {
		found = room.PDUs(room.Backfill(from, min(max(limit, 1), maxBackfill)))
		return nil
	})
	if err != nil {
		return err
	}
	return object(w, "pdus", found)
}
