package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

// transferred are the state events that a room's successor gets (client-server API, "Room Upgrades"), beside power
// levels and the aliases.
var transferred = []string{
	"m.room.join_rules", core.TypeVisibility, core.TypeGuestAccess, "m.room.encryption", "m.room.server_acl", "m.room.name",
	"m.room.avatar", "m.room.topic",
}

const (
	// maxMoved bounds the events of one write.
	maxMoved = 200
	// maxMovedBans bounds the bans that go along.
	maxMovedBans = 2000
)

// upgradeRoom answers POST /rooms/{roomId}/upgrade.
func (c *Rooms) upgradeRoom(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	var q struct {
		Version  *string         `json:"new_version"`
		Creators json.RawMessage `json:"additional_creators"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Version == nil {
		return merr.MissingParam("new_version")
	}
	rules, err := supported(*q.Version)
	if err != nil {
		return err
	}
	creators, err := upgradeCreators(q.Creators, rules)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "create_room"); err != nil {
		return err
	}
	ctx, cancel := httpx.DetachedContext(r, createTime)
	defer cancel()
	u := &upgrade{c: c, user: core.Me(r).User, rules: rules, creators: creators}
	if err := u.open(ctx, roomID); err != nil {
		return err
	}
	replacement, err := u.run(ctx)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]id.Room{"replacement_room": replacement})
}

// upgradeCreators reads additional_creators, which a version that does not know them ignores (MSC4289, "Room upgrades").
func upgradeCreators(raw json.RawMessage, rules *roomversion.Rules) ([]id.User, error) {
	if !rules.PrivilegedCreators || len(raw) == 0 {
		return nil, nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return nil, merr.BadJSON("additional_creators must be a list of user IDs")
	}
	return userList(names)
}

// upgrade replaces a room.
type upgrade struct {
	c        *Rooms
	user     id.User
	rules    *roomversion.Rules
	creators []id.User

	old   *roomdb.Room
	state state.Map
	power auth.Events
}

// open reads the room and checks that the user may replace it.
func (u *upgrade) open(ctx context.Context, roomID id.Room) (err error) {
	if u.old, err = u.c.access.Joined(ctx, u.user, roomID); err != nil {
		return err
	}
	if u.old, err = u.c.access.Whole(ctx, u.old); err != nil { // bans go along
		return err
	}
	if u.power, err = u.c.access.Powers(ctx, u.old); err != nil {
		return err
	}
	if !access.MaySet(u.user, core.TypeTombstone, u.power) {
		return merr.Forbidden("You don't have permission to upgrade the room")
	}
	if u.state, err = u.c.Rooms.State(ctx, u.old.Part, u.old.SID); err != nil {
		return err
	}
	grave, err := u.event(ctx, core.TypeTombstone)
	if err != nil {
		return err
	}
	if grave != nil && gjson.GetBytes(grave.Content, "replacement_room").Str != "" {
		return merr.BadState("The room was upgraded already")
	}
	return nil
}

// event returns a state event with an empty state key, nil if there is none.
func (u *upgrade) event(ctx context.Context, typ string) (*roomdb.Event, error) {
	return u.c.Rooms.StateEvent(ctx, u.old.Part, u.state, typ, "")
}

func (u *upgrade) run(ctx context.Context) (id.Room, error) {
	req, rest, err := u.successor(ctx)
	if err != nil {
		return "", err
	}
	replacement, err := u.c.found(ctx, req)
	if err != nil {
		return "", err
	}
	for chunk := range slices.Chunk(rest, maxMoved) {
		if err := u.sendTo(ctx, replacement, chunk); err != nil {
			return "", err
		}
	}
	grave := map[string]string{"body": "This room has been replaced", "replacement_room": string(replacement)}
	if err := u.sendTo(ctx, u.old.ID, []*roomv1.EventIntent{access.StateIntent(u.user, core.TypeTombstone, "", grave)}); err != nil {
		return "", err
	}
	if err := u.c.dir.Move(ctx, u.old.ID, replacement); err != nil {
		return "", err
	}
	if u.old.Published {
		if err := errors.Join(u.c.directory.SetPublished(ctx, replacement, true), u.c.directory.SetPublished(ctx, u.old.ID, false)); err != nil {
			return "", err
		}
	}
	if err := u.close(ctx); err != nil {
		return "", err
	}
	return replacement, u.carry(ctx, replacement)
}

// carry takes along what local users have set for the room: for all that has been done even if this worker dies.
func (u *upgrade) carry(ctx context.Context, replacement id.Room) error {
	payload, err := json.Marshal(successionTask{Old: u.old.ID, New: replacement})
	if err != nil {
		return err
	}
	task, err := u.c.Users.AddTask(ctx, userdb.Task{User: u.user, Kind: userdb.TaskSuccession, Key: string(replacement), Payload: payload})
	if err != nil {
		return err
	}
	u.c.Tasks.StartAndWait(ctx, task)
	return nil
}

// close silences the old room, as far as the user may: the specification wants it "if possible".
func (u *upgrade) close(ctx context.Context) error {
	levels, err := u.event(ctx, core.TypePowerLevels)
	if err != nil {
		return err
	}
	var last []*roomv1.EventIntent
	if levels != nil && access.MaySet(u.user, core.TypePowerLevels, u.power) {
		last = append(last, access.StateIntent(u.user, core.TypePowerLevels, "", silenced(levels.Content)))
	}
	if e, err := u.event(ctx, core.TypeCanonicalAlias); err != nil {
		return err
	} else if e != nil && access.MaySet(u.user, core.TypeCanonicalAlias, u.power) {
		last = append([]*roomv1.EventIntent{access.StateIntent(u.user, core.TypeCanonicalAlias, "", map[string]any{})}, last...)
	}
	for _, in := range last {
		if err := u.sendTo(ctx, u.old.ID, []*roomv1.EventIntent{in}); err != nil && !merr.HasCode(err, merr.CodeForbidden) {
			return err
		}
	}
	return nil
}

func (u *upgrade) sendTo(ctx context.Context, room id.Room, events []*roomv1.EventIntent) error {
	cause := access.NewCause(u.user)
	return roomowner.Call(ctx, u.c.Router, room, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Send(ctx, &roomv1.SendRequest{RoomId: string(room), Events: events, Cause: cause})
		return err
	})
}

// successor composes the first events of the new room, and those for which there is no room in the first write.
func (u *upgrade) successor(ctx context.Context) (*roomv1.CreateRequest, []*roomv1.EventIntent, error) {
	create, err := u.createContent(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := &plan{rules: u.rules, creator: u.user, isLocal: u.c.IsLocal}
	if p.profiles, err = u.c.profilesOf(ctx, []id.User{u.user}); err != nil {
		return nil, nil, err
	}
	p.add(core.TypeMember, string(u.user), p.memberContent(u.user, core.Join))
	first, final, err := u.levels(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	p.add(core.TypePowerLevels, "", first)
	if err := u.copyState(ctx, p); err != nil {
		return nil, nil, err
	}
	if final != nil {
		p.add(core.TypePowerLevels, "", final)
	}
	req := &roomv1.CreateRequest{Creator: string(u.user), RoomVersion: u.rules.Version, CreateContent: create, Cause: access.NewCause(u.user)}
	n := min(len(p.events), maxMoved)
	req.Events = p.events[:n]
	return req, p.events[n:], nil
}

func (u *upgrade) createContent(ctx context.Context) ([]byte, error) {
	old, err := u.event(ctx, core.TypeCreate)
	if err != nil {
		return nil, err
	}
	content := make(map[string]json.RawMessage)
	if old != nil {
		for _, key := range []string{"type", "m.federate"} {
			if v := gjson.GetBytes(old.Content, strings.ReplaceAll(key, ".", `\.`)); v.Exists() {
				content[key] = json.RawMessage(v.Raw)
			}
		}
	}
	predecessor := map[string]string{"room_id": string(u.old.ID)}
	tips, err := u.c.Rooms.Events(ctx, u.old.Part, u.old.Extremities)
	if err != nil {
		return nil, err
	}
	for _, e := range tips { // the last known event in the old room
		predecessor["event_id"] = string(e.ID)
	}
	if content["predecessor"], err = json.Marshal(predecessor); err != nil {
		return nil, err
	}
	if u.rules.PrivilegedCreators {
		setCreators(content, u.user, u.creators)
	}
	return json.Marshal(content)
}

// copyState adds the state that goes along: what anybody could have sent, the children of a space, and bans.
func (u *upgrade) copyState(ctx context.Context, p *plan) error {
	for _, typ := range transferred {
		e, err := u.event(ctx, typ)
		if err != nil {
			return err
		}
		if e != nil {
			p.add(typ, "", u.adapt(e.PDU))
		}
	}
	if e, err := u.event(ctx, core.TypeCanonicalAlias); err != nil {
		return err
	} else if e != nil && len(e.Content) > len(`{}`) {
		p.add(core.TypeCanonicalAlias, "", json.RawMessage(e.Content))
	}
	children, err := u.c.Rooms.StateEvents(ctx, u.old.Part, u.state.Type("m.space.child"))
	if err != nil {
		return err
	}
	for _, e := range children {
		if gjson.GetBytes(e.Content, "via").IsArray() {
			p.add(e.Type, *e.StateKey, json.RawMessage(e.Content))
		}
	}
	return u.addBans(ctx, p)
}

// addBans adds the bans, of which only so many are moved.
func (u *upgrade) addBans(ctx context.Context, p *plan) error {
	var nids []int64
	for _, nid := range u.state.Type(core.TypeMember) {
		nids = append(nids, nid)
	}
	is, err := u.c.Rooms.Memberships(ctx, u.old.Key(), nids)
	if err != nil {
		return err
	}
	nids = slices.DeleteFunc(nids, func(nid int64) bool { return is[nid] != core.Ban })
	bans, err := u.c.Rooms.InOrder(ctx, u.old.Part, nids[:min(len(nids), maxMovedBans)])
	for _, e := range bans {
		p.add(core.TypeMember, *e.StateKey, json.RawMessage(e.Content))
	}
	return err
}

// adapt makes join rules that the new version does not know ones that it does.
func (u *upgrade) adapt(e *event.PDU) json.RawMessage {
	if e.Type != "m.room.join_rules" {
		return e.Content
	}
	switch rule := gjson.GetBytes(e.Content, "join_rule").Str; {
	case rule == "knock_restricted" && !u.rules.KnockRestricted, rule == "restricted" && !u.rules.RestrictedJoin,
		rule == "knock" && !u.rules.Knocking:
		return json.RawMessage(`{"join_rule":"invite"}`)
	}
	return e.Content
}

// levels returns the power levels with which the new room begins, and those with which it ends up if they differ: who
// upgrades it needs enough power to set up all of its state.
func (u *upgrade) levels(ctx context.Context, p *plan) (first, final map[string]any, err error) {
	old, err := u.event(ctx, core.TypePowerLevels)
	if err != nil {
		return nil, nil, err
	}
	var levels map[string]any
	if old != nil {
		_ = json.Unmarshal(old.Content, &levels) // what cannot be read has no levels
	}
	if levels == nil {
		return p.powerLevels(0, false, nil), nil, nil
	}
	if u.rules.IntegerPowerLevels {
		levels, _ = integers(levels).(map[string]any)
	}
	users, _ := levels["users"].(map[string]any)
	if users == nil {
		users = make(map[string]any)
	}
	levels["users"] = users
	if u.rules.PrivilegedCreators {
		for _, creator := range append(u.creators, u.user) {
			delete(users, string(creator))
		}
		if events, ok := levels["events"].(map[string]any); ok && !u.old.Rules.PrivilegedCreators {
			events[core.TypeTombstone] = 150
		}
		return levels, nil, nil
	}
	u.former(users)
	most := highest(levels)
	if mine, _ := number(users[string(u.user)]); mine >= most {
		return levels, nil, nil
	}
	raised := make(map[string]any, len(levels))
	for k, v := range levels {
		raised[k] = v
	}
	withMe := make(map[string]any, len(users)+1)
	for k, v := range users {
		withMe[k] = v
	}
	withMe[string(u.user)] = most
	raised["users"] = withMe
	return raised, levels, nil
}

// former gives creators of the old room, who had no level there, one where they need it.
func (u *upgrade) former(users map[string]any) {
	create := u.power.StateEvent(core.TypeCreate, "")
	if create == nil || !u.old.Rules.PrivilegedCreators {
		return
	}
	for _, creator := range auth.Creators(create) {
		users[string(creator)] = 100
	}
}

// highest is the greatest level that something in the room asks for; at least 100.
func highest(levels map[string]any) int64 {
	most := int64(100)
	for k, v := range levels {
		switch v := v.(type) {
		case map[string]any:
			if k == "events" {
				for _, l := range v {
					if n, ok := number(l); ok {
						most = max(most, n)
					}
				}
			}
		default:
			if n, ok := number(v); ok {
				most = max(most, n)
			}
		}
	}
	return most
}

func number(v any) (int64, bool) {
	switch v := v.(type) {
	case float64:
		return int64(v), true
	case int:
		return int64(v), true
	case int64:
		return v, true
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// integers turns levels that old room versions could write as texts into numbers; what is neither is dropped.
func integers(v any) any {
	if m, ok := v.(map[string]any); ok {
		out := make(map[string]any, len(m))
		for k, v := range m {
			if c := integers(v); c != nil {
				out[k] = c
			}
		}
		return out
	}
	if n, ok := number(v); ok {
		return n
	}
	return nil
}

// silenced raises what sending and inviting need above what everybody has.
func silenced(content []byte) map[string]any {
	var levels map[string]any
	if json.Unmarshal(content, &levels) != nil || levels == nil {
		levels = make(map[string]any)
	}
	everybody, _ := number(levels["users_default"])
	least := max(50, everybody+1)
	for _, key := range []string{"events_default", "invite"} {
		if n, ok := number(levels[key]); !ok || n < least {
			levels[key] = least
		}
	}
	return levels
}
