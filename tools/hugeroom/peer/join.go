package peer

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/state"
	"hanse/tools/hugeroom"
)

func (p *Peer) makeJoin(w http.ResponseWriter, r *http.Request) error {
	return p.template(w, r, "join")
}

func (p *Peer) makeLeave(w http.ResponseWriter, r *http.Request) error {
	return p.template(w, r, "leave")
}

// template answers make_join and make_leave: where the event would stand now.
func (p *Peer) template(w http.ResponseWriter, r *http.Request, membership string) error {
	if err := p.inRoom(r); err != nil {
		return err
	}
	user := r.PathValue("user")
	content, err := json.Marshal(map[string]string{"membership": membership})
	if err != nil {
		return err
	}
	var d event.Draft
	err = p.Room(func(room *hugeroom.Room) error {
		prev := room.Ends()
		prev = prev[max(0, len(prev)-event.MaxPrevEvents):]
		before, err := room.Before(prev...)
		if err != nil {
			return err
		}
		d = room.Template(hugeroom.Action{Sender: id.User(user), Type: "m.room.member", StateKey: &user, Content: content}, before, prev)
		return nil
	})
	if err != nil {
		return err
	}
	return answer(w, map[string]any{"room_version": p.room.Rules.Version, "event": map[string]any{
		"type": d.Type, "room_id": d.RoomID, "sender": d.Sender, "state_key": user, "content": d.Content, "depth": d.Depth,
		"origin_server_ts": d.OriginServerTS, "prev_events": d.PrevEvents, "auth_events": d.AuthEvents,
	}})
}

// parse reads an event of another server that is of the room.
func (p *Peer) parse(raw []byte) (*event.PDU, error) {
	pdu, err := event.Parse(raw, p.room.Rules)
	if err != nil {
		return nil, merr.BadJSON(err.Error())
	}
	if pdu.RoomID != p.room.ID {
		return pdu, merr.NotFound("Unknown room")
	}
	return pdu, nil
}

// take puts an event of another server into the room.
func take(room *hugeroom.Room, pdu *event.PDU) (before state.Map, err error) {
	prev, unknown := room.Known(pdu.PrevEvents)
	if len(unknown) > 0 || len(prev) == 0 {
		return before, merr.NotFound("Unknown prev events")
	}
	if before, err = room.Before(prev...); err != nil || room.Number(pdu.ID) != 0 {
		return before, err
	}
	if _, err := room.AddForeign(pdu, before); err != nil {
		return before, merr.Forbidden(err.Error())
	}
	return before, nil
}

// takeRaw reads an event and puts it into the room.
func (p *Peer) takeRaw(raw []byte) (pdu *event.PDU, before state.Map, err error) {
	if pdu, err = p.parse(raw); err != nil {
		return pdu, before, err
	}
	err = p.Room(func(room *hugeroom.Room) error { before, err = take(room, pdu); return err })
	return pdu, before, err
}

func (p *Peer) sendLeave(w http.ResponseWriter, r *http.Request) error {
	if err := p.inRoom(r); err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if _, _, err := p.takeRaw(body); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

func (p *Peer) sendJoin(w http.ResponseWriter, r *http.Request) error {
	if err := p.inRoom(r); err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	join, before, err := p.takeRaw(body)
	if err != nil {
		return err
	}
	omit := p.cfg.OmitMembers && r.URL.Query().Get("omit_members") == "true"
	var state, chain []*event.PDU
	var servers []id.Server
	err = p.Room(func(room *hugeroom.Room) error {
		numbers := hugeroom.Numbers(before)
		servers = joinedServers(room.PDUs(numbers))
		if omit {
			numbers = slices.DeleteFunc(numbers, func(n int) bool { return room.PDU(n).Type == "m.room.member" })
			numbers = append(numbers, heroes(room, before)...)
		}
		links := room.AuthChain(append(slices.Clone(numbers), room.Number(join.ID))...)
		if omit {
			links = slices.DeleteFunc(links, func(n int) bool { return slices.Contains(numbers, n) })
		}
		state, chain = room.PDUs(numbers), room.PDUs(links)
		return nil
	})
	if err != nil {
		return err
	}
	head, err := json.Marshal(map[string]any{"origin": r.Host, "members_omitted": omit, "servers_in_room": servers, "event": json.RawMessage(join.JSON)})
	if err != nil {
		return err
	}
	if _, err := w.Write(bytes.TrimSuffix(head, []byte("}"))); err != nil {
		return err
	}
	if err := pduList(w, `,"auth_chain":`, chain); err != nil {
		return err
	}
	if err := pduList(w, `,"state":`, state); err != nil {
		return err
	}
	_, err = io.WriteString(w, "}")
	return err
}

// heroes are the members by whom clients call a room without a name.
func heroes(room *hugeroom.Room, m state.Map) []int {
	var out []int
	for _, u := range room.Officers()[:5] {
		if n, ok := m.Get(state.Key{Type: "m.room.member", StateKey: string(u)}); ok {
			out = append(out, int(n))
		}
	}
	return out
}

func joinedServers(state []*event.PDU) []id.Server {
	in := make(map[id.Server]bool)
	for _, e := range state {
		if e.Type != "m.room.member" {
			continue
		}
		if server := id.User(*e.StateKey).Server(); !in[server] && e.Membership() == "join" {
			in[server] = true
		}
	}
	return slices.Sorted(maps.Keys(in))
}
