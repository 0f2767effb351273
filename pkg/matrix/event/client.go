package event

import (
	"strconv"

	"hanse/pkg/matrix/canonjson"
)

// ClientJSON appends the event as clients see it (client-server API, section "Room event format"). unsigned is the
// JSON of that member, nil for none. Redactions name their event both where old and where new clients look for it.
func (p *PDU) ClientJSON(b, unsigned []byte, withRoomID bool) []byte {
	b = append(b, `{"content":`...)
	if p.Redacts != "" && p.Type == "m.room.redaction" && !p.Rules.RedactsInContent {
		b = p.appendRedactsContent(b)
	} else {
		b = append(b, p.Content...)
	}
	b = append(b, `,"event_id":`...)
	b = canonjson.AppendString(b, string(p.ID))
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, p.OriginServerTS, 10)
	if p.Redacts != "" && p.Type == "m.room.redaction" {
		b = append(b, `,"redacts":`...)
		b = canonjson.AppendString(b, string(p.Redacts))
	}
	if withRoomID {
		b = append(b, `,"room_id":`...)
		b = canonjson.AppendString(b, string(p.RoomID))
	}
	b = p.appendSender(b)
	if len(unsigned) > 0 {
		b = append(b, `,"unsigned":`...)
		b = append(b, unsigned...)
	}
	return append(b, '}')
}

func (p *PDU) appendSender(b []byte) []byte {
	b = append(b, `,"sender":`...)
	b = canonjson.AppendString(b, string(p.Sender))
	if p.StateKey != nil {
		b = append(b, `,"state_key":`...)
		b = canonjson.AppendString(b, *p.StateKey)
	}
	b = append(b, `,"type":`...)
	return canonjson.AppendString(b, p.Type)
}

func (p *PDU) appendRedactsContent(b []byte) []byte {
	content, err := canonjson.ParseObject(p.Content)
	if err != nil {
		return append(b, p.Content...)
	}
	return content.With("redacts", canonjson.AppendString(nil, string(p.Redacts))).Append(b)
}

// Stripped appends the stripped state form (client-server API, section "Stripped state").
func (p *PDU) Stripped(b []byte) []byte {
	b = append(b, `{"content":`...)
	b = append(b, p.Content...)
	return append(p.appendSender(b), '}')
}
