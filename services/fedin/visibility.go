package fedin

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// shownTo returns the bytes of events for a server: whole where one of its users may see them, in the redacted form
// otherwise, which it needs for the graph all the same (client-server API, "Room history visibility"; as Synapse does).
// All events must be of one room.
func (f *Fedin) shownTo(ctx context.Context, server id.Server, events []*roomdb.Event) ([][]byte, error) {
	v := &serverView{f: f, server: server, standings: make(map[int64]standing), events: f.rooms.Events}
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
	members   membersSeen
	events    func(context.Context, uint32, []int64) (map[int64]*roomdb.Event, error)
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
	in, err := v.members.any(ctx, v, e.Part, m, s.history)
	s.joined, s.invited = in && s.history == "joined", in && s.history == "invited"
	return s, err
}

// membersSeen follows, from one snapshot to the next, whether a server has a member who counts: rooms are large, and
// snapshots of one request are near each other.
type membersSeen struct {
	known   bool
	at      state.Map
	setting string
	member  state.Key // one who counts there, with the event that says so; 0: there is none
	nid     int64
}

// any says whether the server has a member in a state who sees what is sent under a setting.
func (s *membersSeen) any(ctx context.Context, v *serverView, part uint32, m state.Map, setting string) (bool, error) {
	near := s.known && s.setting == setting
	if near && s.nid != 0 {
		if nid, _ := m.Get(s.member); nid == s.nid {
			s.at = m
			return true, nil
		}
	}
	candidates := m.Type("m.room.member")
	if near && s.nid == 0 { // nobody counted there: only who changed can
		candidates = func(yield func(state.Key, int64) bool) {
			for ch := range state.Diff(s.at, m) {
				if ch.New != 0 && ch.Key.Type == "m.room.member" && !yield(ch.Key, ch.New) {
					return
				}
			}
		}
	}
	member, nid, err := v.first(ctx, part, candidates, setting)
	if err != nil {
		return false, err
	}
	*s = membersSeen{known: true, at: m, setting: setting, member: member, nid: nid}
	return nid != 0, nil
}

// memberChunk is how many members are looked at together.
const memberChunk = 200

// first returns one of the server's members among the candidates who counts; 0 if there is none.
func (v *serverView) first(ctx context.Context, part uint32, candidates iter.Seq2[state.Key, int64], setting string) (state.Key, int64, error) {
	keys := make(map[int64]state.Key)
	look := func() (state.Key, int64, error) {
		members, err := v.events(ctx, part, slices.Collect(maps.Keys(keys)))
		if err != nil {
			return state.Key{}, 0, err
		}
		for nid, e := range members {
			if m := e.Membership(); m == "join" || m == "invite" && setting == "invited" {
				return keys[nid], nid, nil
			}
		}
		clear(keys)
		return state.Key{}, 0, nil
	}
	for key, nid := range candidates {
		if !v.owns(key.StateKey) {
			continue
		}
		if keys[nid] = key; len(keys) < memberChunk {
			continue
		}
		if key, nid, err := look(); err != nil || nid != 0 {
			return key, nid, err
		}
	}
	if len(keys) == 0 {
		return state.Key{}, 0, nil
	}
	return look()
}
