package rooms

import (
	"encoding/json"
	"maps"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

// plan is a room that is about to be made.
type plan struct {
	rules    *roomversion.Rules
	creator  id.User
	invitees []id.User
	alias    id.Alias // "" for none
	profiles map[id.User]map[string]json.RawMessage
	isLocal  func(id.User) bool
	direct   bool

	events []*roomv1.EventIntent
	// later are those whom the first write does not invite.
	later []id.User
}

// preset is a row of the table in the section "Creation" of the client-server API.
type preset struct {
	joinRule  string
	guests    bool
	inviteLvl int
}

var presets = map[string]preset{
	presetPrivate: {joinRule: "invite", guests: true, inviteLvl: 0},
	presetTrusted: {joinRule: "invite", guests: true, inviteLvl: 0},
	presetPublic:  {joinRule: "public", guests: false, inviteLvl: 50},
}

// request composes the first events of the room in the order of the specification: create, join, power levels,
// canonical alias, preset, initial state, name and topic, invites.
func (p *plan) request(q *createRequest) (*roomv1.CreateRequest, error) {
	create, err := p.createContent(q)
	if err != nil {
		return nil, err
	}
	p.direct = q.IsDirect
	p.add(core.TypeMember, string(p.creator), p.memberContent(p.creator, core.Join))
	has := func(typ string) bool {
		return slices.ContainsFunc(q.InitialState, func(e initialEvent) bool { return e.Type == typ && e.StateKey == "" })
	}
	trusted := q.Preset == presetTrusted
	if i := slices.IndexFunc(q.InitialState, func(e initialEvent) bool { return e.Type == core.TypePowerLevels && e.StateKey == "" }); i >= 0 {
		p.add(core.TypePowerLevels, "", q.InitialState[i].Content)
	} else {
		p.add(core.TypePowerLevels, "", p.powerLevels(presets[q.Preset].inviteLvl, trusted, q.PowerLevels))
	}
	if p.alias != "" && !has(core.TypeCanonicalAlias) {
		p.add(core.TypeCanonicalAlias, "", map[string]id.Alias{"alias": p.alias})
	}
	p.addPreset(presets[q.Preset], has)
	for _, e := range q.InitialState {
		if e.Type != core.TypePowerLevels || e.StateKey != "" {
			p.add(e.Type, e.StateKey, e.Content)
		}
	}
	if q.Name != nil && *q.Name != "" {
		p.add("m.room.name", "", map[string]string{"name": *q.Name})
	}
	if q.Topic != nil && *q.Topic != "" {
		p.add("m.room.topic", "", topicContent(*q.Topic))
	}
	p.addInvites()
	return &roomv1.CreateRequest{Creator: string(p.creator), RoomVersion: p.rules.Version, CreateContent: create,
		Events: p.events, Published: q.Visibility == "public", Cause: access.NewCause(p.creator)}, nil
}

func (p *plan) addPreset(s preset, has func(string) bool) {
	if !has("m.room.join_rules") {
		p.add("m.room.join_rules", "", map[string]string{"join_rule": s.joinRule})
	}
	if !has(core.TypeVisibility) {
		p.add(core.TypeVisibility, "", map[string]string{"history_visibility": "shared"})
	}
	if !has(core.TypeGuestAccess) && s.guests { // without the event guests may not join
		p.add(core.TypeGuestAccess, "", map[string]string{"guest_access": "can_join"})
	}
}

// addInvites makes the invites of our own users part of the first write; those of others need their servers.
func (p *plan) addInvites() {
	n := 0
	for _, u := range p.invitees {
		if !p.isLocal(u) || n >= maxBatchInvites {
			p.later = append(p.later, u)
			continue
		}
		n++
		p.add(core.TypeMember, string(u), p.memberContent(u, core.Invite))
	}
}

func (p *plan) memberContent(u id.User, membership string) map[string]json.RawMessage {
	content := make(map[string]json.RawMessage)
	if membership == core.Invite {
		content = p.inviteContent(u)
	} else {
		maps.Copy(content, p.profiles[u])
	}
	content["membership"] = json.RawMessage(`"` + membership + `"`)
	return content
}

func (p *plan) inviteContent(u id.User) map[string]json.RawMessage {
	content := maps.Clone(p.profiles[u])
	if content == nil {
		content = make(map[string]json.RawMessage)
	}
	if p.direct {
		content["is_direct"] = json.RawMessage("true")
	}
	return content
}

func (p *plan) add(typ, key string, content any) {
	p.events = append(p.events, access.StateIntent(p.creator, typ, key, content))
}

// topicContent has the topic as plain text in both forms (client-server API, "m.room.topic").
func topicContent(topic string) map[string]any {
	return map[string]any{"topic": topic, "m.topic": map[string]any{"m.text": []any{map[string]string{"body": topic}}}}
}

// createContent is the content of m.room.create but for what the server sets. With the preset for trusted people
// those invited become creators too, from room version 12 on.
func (p *plan) createContent(q *createRequest) ([]byte, error) {
	content := maps.Clone(q.CreationContent)
	if content == nil {
		content = make(map[string]json.RawMessage)
	}
	delete(content, "creator")
	delete(content, "room_version")
	if p.rules.PrivilegedCreators {
		var asked []string
		if raw, ok := content["additional_creators"]; ok {
			if err := json.Unmarshal(raw, &asked); err != nil {
				return nil, merr.BadJSON("additional_creators must be a list of user IDs")
			}
		}
		creators, err := userList(asked)
		if err != nil {
			return nil, err
		}
		if q.Preset == presetTrusted {
			for _, u := range p.invitees {
				if !slices.Contains(creators, u) {
					creators = append(creators, u)
				}
			}
		}
		setCreators(content, p.creator, creators)
		if err := noCreators(q, append(creators, p.creator)); err != nil {
			return nil, err
		}
	}
	return json.Marshal(content)
}

// setCreators sets the creators beside the sender of the create event.
func setCreators(content map[string]json.RawMessage, sender id.User, creators []id.User) {
	creators = slices.DeleteFunc(slices.Clone(creators), func(u id.User) bool { return u == sender })
	delete(content, "additional_creators")
	if len(creators) > 0 {
		raw, err := json.Marshal(creators)
		if err != nil {
			panic(err) // texts
		}
		content["additional_creators"] = raw
	}
}

// noCreators refuses power levels that name creators, whose power has no level (room version 12).
func noCreators(q *createRequest, creators []id.User) error {
	override, err := json.Marshal(q.PowerLevels)
	if err != nil {
		return err
	}
	levels := []json.RawMessage{override}
	for _, e := range q.InitialState {
		if e.Type == core.TypePowerLevels && e.StateKey == "" {
			levels = append(levels, e.Content)
		}
	}
	for _, content := range levels {
		if named := namedIn(content, creators); named != "" {
			return merr.InvalidRoomState("Creators must not have a power level: " + string(named))
		}
	}
	return nil
}

// namedIn returns one of the users to whom the content of power levels gives one, "" if there is none.
func namedIn(content json.RawMessage, users []id.User) id.User {
	var levels struct {
		Users map[string]json.RawMessage `json:"users"`
	}
	if json.Unmarshal(content, &levels) != nil {
		return "" // the auth rules say what is wrong with it
	}
	for _, u := range users {
		if _, named := levels.Users[string(u)]; named {
			return u
		}
	}
	return ""
}

// powerLevels are those of a new room, as Synapse has them. The client's members replace ours.
func (p *plan) powerLevels(inviteLevel int, trusted bool, override map[string]json.RawMessage) map[string]any {
	events := map[string]int{
		"m.room.name": 50, core.TypePowerLevels: 100, core.TypeVisibility: 100, core.TypeCanonicalAlias: 50, "m.room.avatar": 50,
		core.TypeTombstone: 100, "m.room.server_acl": 100, "m.room.encryption": 100,
	}
	users := make(map[id.User]int)
	if p.rules.PrivilegedCreators {
		events[core.TypeTombstone] = 150 // for creators alone (room version 12)
	} else {
		users[p.creator] = 100
		if trusted {
			for _, u := range p.invitees {
				users[u] = 100
			}
		}
	}
	levels := map[string]any{
		"users": users, "users_default": 0, "events": events, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": inviteLevel,
	}
	for k, v := range override {
		levels[k] = v
	}
	return levels
}
