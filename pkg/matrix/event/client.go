package event

import (
	"strconv"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
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

// Stored is a state event of which only that is looked at which clients see, as raw JSON: for answers with very many of
// them. Its bytes are those of the event.
type Stored struct {
	// OriginServerTS is in milliseconds since 1970.
	OriginServerTS int64
	// Content, Sender and StateKey are the raw values.
	Content, Sender, StateKey []byte
	kind                      []byte
}

// ParseStored looks at a canonical event of our own database that was not redacted. It says whether it could: what is not
// as usual needs ParseTrusted.
func ParseStored(raw []byte) (s Stored, ok bool) {
	var ts []byte
	ok = canonjson.Each(raw, func(name, value []byte) {
		switch string(name) {
		case `"content"`:
			s.Content = value
		case `"origin_server_ts"`:
			ts = value
		case `"sender"`:
			s.Sender = value
		case `"state_key"`:
			s.StateKey = value
		case `"type"`:
			s.kind = value
		}
	})
	for _, text := range [][]byte{s.Sender, s.StateKey, s.kind} {
		ok = ok && len(text) > 0 && text[0] == '"'
	}
	if !ok || len(s.Content) == 0 || string(s.kind) == `"m.room.redaction"` {
		return s, false
	}
	var err error
	s.OriginServerTS, err = strconv.ParseInt(string(ts), 10, 64)
	return s, err == nil
}

// AppendClient appends the event as ClientJSON does, without the last brace. Without a room id none is written.
func (s *Stored) AppendClient(b, eventID []byte, room id.Room) []byte {
	b = append(b, `{"content":`...)
	b = append(b, s.Content...)
	b = append(b, `,"event_id":`...)
	b = canonjson.AppendString(b, string(eventID))
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, s.OriginServerTS, 10)
	if room != "" {
		b = append(b, `,"room_id":`...)
		b = canonjson.AppendString(b, string(room))
	}
	b = append(b, `,"sender":`...)
	b = append(b, s.Sender...)
	b = append(b, `,"state_key":`...)
	b = append(b, s.StateKey...)
	b = append(b, `,"type":`...)
	return append(b, s.kind...)
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
