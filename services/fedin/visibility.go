package fedin

import (
	"context"
	"strings"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// shownTo returns the bytes of events for a server: whole where one of its users may see them, in the redacted form
// otherwise, which it needs for the graph all the same (client-server API, "Room history visibility"; as Synapse does).
// All events must be of one room.
func (f *Fedin) shownTo(ctx context.Context, server id.Server, events []*roomdb.Event) ([][]byte, error) {
	v := &serverView{f: f, server: server, standings: make(map[int64]standing)}
	out := make([][]byte, len(events))
	for i, e := range events {
		visible, err := v.sees(ctx, e)
		if err != nil {
			return nil, err
		}
		if visible {
			out[i] = e.JSON
			continue
		}
		pdu, err := e.Redacted()
		if err != nil {
			return nil, err
		}
		out[i] = pdu.JSON
	}
	return out, nil
}

// serverView decides for the events of one request. Events that share a snapshot share the decision.
type serverView struct {
	f         *Fedin
	server    id.Server
	standings map[int64]standing
}

// standing is what a snapshot says of a server.
type standing struct {
	history         string
	joined, invited bool
}

func (v *serverView) sees(ctx context.Context, e *roomdb.Event) (bool, error) {
	if e.SID == 0 {
		// An outlier, whose state we do not know: state is what everybody in the room sees.
		return e.IsState(), nil
	}
	s, ok := v.standings[e.SID]
	if !ok {
		var err error
		if s, err = v.at(ctx, e); err != nil {
			return false, err
		}
		v.standings[e.SID] = s
	}
	// For the events that change what is looked at, the more permissive of before and after counts.
	switch {
	case s.permits():
		return true, nil
	case e.Is("m.room.history_visibility", ""):
		s.history = gjson.GetBytes(e.Content, "history_visibility").Str
	case e.Type == "m.room.member" && e.StateKey != nil && v.owns(*e.StateKey):
		s.joined = s.joined || e.Membership() == "join"
		s.invited = s.invited || e.Membership() == "invite"
	}
	return s.permits(), nil
}

func (s standing) permits() bool {
	switch s.history {
	case "joined":
		return s.joined
	case "invited":
		return s.joined || s.invited
	}
	return true // world_readable and shared: the server is in the room now
}

func (v *serverView) owns(stateKey string) bool {
	return strings.HasSuffix(stateKey, ":"+string(v.server))
}

// at reads a snapshot. The members are looked at only where the setting makes them count.
func (v *serverView) at(ctx context.Context, e *roomdb.Event) (standing, error) {
	m, err := v.f.rooms.State(ctx, e.Part, e.SID)
	if err != nil {
		return standing{}, err
	}
	s := standing{history: "shared"}
	setting, err := v.f.rooms.StateEvent(ctx, e.Part, m, "m.room.history_visibility", "")
	if err != nil {
		return s, err
	}
	if setting != nil {
		s.history = gjson.GetBytes(setting.Content, "history_visibility").Str
	}
	if s.permits() {
		return s, nil
	}
	var nids []int64
	for key, nid := range m.Type("m.room.member") {
		if v.owns(key.StateKey) {
			nids = append(nids, nid)
		}
	}
	members, err := v.f.rooms.Events(ctx, e.Part, nids)
	if err != nil {
		return s, err
	}
	for _, e := range members {
		s.joined = s.joined || e.Membership() == "join"
		s.invited = s.invited || e.Membership() == "invite"
	}
	return s, nil
}
