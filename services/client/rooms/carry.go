package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/notify"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
	"hanse/services/client/settings"
)

// What users have set for a room goes along to its successor: tags, push rules, and whether it is a direct chat. The
// specification leaves that open ("Room Upgrades"); Synapse does it.

const dataDirect = "m.direct"

// successionTask is the payload of a userdb.TaskSuccession: a room and what replaces it.
type successionTask struct {
	Old id.Room `json:"old"`
	New id.Room `json:"new"`
}

// carryAlong does it for all of local users who are in the old room. What was done before is not done again.
func (c *Rooms) carryAlong(ctx context.Context, t userdb.Task) error {
	var s successionTask
	if err := json.Unmarshal(t.Payload, &s); err != nil {
		return err
	}
	room, err := c.Rooms.Room(ctx, s.Old)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	ours := func(yield func(state.Key, int64) bool) {
		for key, nid := range m.Type(core.TypeMember) {
			if c.IsLocal(id.User(key.StateKey)) && !yield(key, nid) {
				return
			}
		}
	}
	return c.Rooms.EachJoined(ctx, room.Key(), ours, func(users []id.User) error {
		var g errgroup.Group
		g.SetLimit(core.RoomsAtOnce)
		for _, user := range users {
			g.Go(func() error { return c.carryFor(ctx, user, s) })
		}
		return g.Wait()
	})
}

// carryOnJoin does it for a user who has joined a room, if that is the successor of one that we know. That another room
// says so proves nothing: the old one must name it.
func (c *Rooms) carryOnJoin(ctx context.Context, user id.User, joined id.Room) error {
	old, err := c.stateContent(ctx, joined, core.TypeCreate)
	if err != nil {
		return err
	}
	s := successionTask{New: joined, Old: id.Room(gjson.GetBytes(old, "predecessor.room_id").Str)}
	if _, err := id.ParseRoom(string(s.Old)); err != nil {
		return nil //nolint:nilerr // it names no room, so there is none to carry from
	}
	grave, err := c.stateContent(ctx, s.Old, core.TypeTombstone)
	if err != nil || gjson.GetBytes(grave, "replacement_room").Str != string(joined) {
		return err
	}
	return c.carryFor(ctx, user, s)
}

// stateContent returns the content of a state event of a room, nil if there is none.
func (c *Rooms) stateContent(ctx context.Context, roomID id.Room, typ string) (json.RawMessage, error) {
	room, err := c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return nil, err
	}
	e, err := c.Rooms.StateEvent(ctx, room.Part, m, typ, "")
	if err != nil || e == nil {
		return nil, err
	}
	return e.Content, nil
}

func (c *Rooms) carryFor(ctx context.Context, user id.User, s successionTask) error {
	return errors.Join(c.carryTags(ctx, user, s), c.carryDirect(ctx, user, s), c.carryRules(ctx, user, s))
}

// carryTags copies the tags of the old room, unless the user has tagged the new one.
func (c *Rooms) carryTags(ctx context.Context, user id.User, s successionTask) error {
	tags, err := c.Users.AccountData(ctx, user, s.Old, settings.DataTag)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Users.UpdateAccountData(ctx, user, s.New, settings.DataTag, func(old []byte) ([]byte, error) {
		if old != nil {
			return nil, nil
		}
		return tags, nil
	})
}

// carryDirect adds the new room to each list of direct chats that has the old one.
func (c *Rooms) carryDirect(ctx context.Context, user id.User, s successionTask) error {
	content, err := c.Users.AccountData(ctx, user, "", dataDirect)
	if errors.Is(err, userdb.ErrNotFound) || err == nil && addDirect(content, s) == nil {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Users.UpdateAccountData(ctx, user, "", dataDirect, func(old []byte) ([]byte, error) { return addDirect(old, s), nil })
}

// addDirect returns the new content of m.direct, nil if it stays.
func addDirect(content []byte, s successionTask) []byte {
	var chats map[string]json.RawMessage
	if json.Unmarshal(content, &chats) != nil {
		return nil // whatever a client has written there
	}
	changed := false
	for with, raw := range chats {
		var rooms []string
		if json.Unmarshal(raw, &rooms) != nil || !slices.Contains(rooms, string(s.Old)) || slices.Contains(rooms, string(s.New)) {
			continue
		}
		list, err := json.Marshal(append(rooms, string(s.New)))
		if err != nil {
			return nil
		}
		chats[with], changed = list, true
	}
	if !changed {
		return nil
	}
	out, err := json.Marshal(chats)
	if err != nil {
		return nil
	}
	return out
}

// carryRules copies the push rules about the old room.
func (c *Rooms) carryRules(ctx context.Context, user id.User, s successionTask) error {
	stored, err := c.Users.AccountData(ctx, user, "", notify.PushRules)
	if errors.Is(err, userdb.ErrNotFound) || err == nil && !bytes.Contains(stored, []byte(s.Old)) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Users.UpdateAccountData(ctx, user, "", notify.PushRules, func(old []byte) ([]byte, error) {
		set, err := pushrule.Parse(old, user)
		if err != nil || !copyRules(&set, s) {
			return nil, err
		}
		content, err := set.ContentJSON()
		if err != nil || len(content) > settings.MaxRuleset {
			return nil, err
		}
		return content, nil
	})
}

// copyRules adds rules for the new room like those for the old one: room rules, and others with a condition on its id, as
// clients mute rooms. It reports whether there were any.
func copyRules(set *pushrule.Ruleset, s successionTask) bool {
	copied := false
	for kind, rules := range map[string][]pushrule.Rule{"override": set.Override, "room": set.Room, "underride": set.Underride} {
		for _, old := range slices.Backward(slices.Clone(rules)) { // each goes in front of those before
			rule, is := ruleFor(kind, old, s)
			if _, err := set.Find(kind, rule.ID); !is || err == nil {
				continue
			}
			if set.Put(kind, rule, "", "") == nil && (old.Enabled || set.SetEnabled(kind, rule.ID, false) == nil) {
				copied = true
			}
		}
	}
	return copied
}

// ruleFor makes a rule about the old room one about the new one.
func ruleFor(kind string, old pushrule.Rule, s successionTask) (rule pushrule.Rule, is bool) {
	rule = pushrule.Rule{ID: strings.ReplaceAll(old.ID, string(s.Old), string(s.New)), Actions: old.Actions}
	if kind == "room" {
		return rule, old.ID == string(s.Old)
	}
	if rule.ID == old.ID {
		rule.ID = string(s.New)
	}
	for _, condition := range old.Conditions {
		if condition.Kind == "event_match" && condition.Key == "room_id" && condition.Pattern != nil && *condition.Pattern == string(s.Old) {
			pattern := string(s.New)
			condition, is = pushrule.Condition{Kind: condition.Kind, Key: condition.Key, Pattern: &pattern}, true
		}
		rule.Conditions = append(rule.Conditions, condition)
	}
	return rule, is && !old.Default
}
