// Package pushrule is the push rules of users (client-server API, module Push Notifications): the default rules, what
// users make of them, and which rule an event matches.
package pushrule

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hanse/pkg/matrix/id"
)

// Ruleset is the rules of a user by kind. The kinds take effect in this order, the rules of a kind in theirs.
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// masterRule is the rule that silences everything while it is enabled (client-server API, "Default Override Rules").
const masterRule = ".m.rule.master"

// Rule is a push rule (PushRule).
type Rule struct {
	ID      string `json:"rule_id"`
	Default bool   `json:"default"`
	Enabled bool   `json:"enabled"`
	// Actions are strings and objects, as JSON.
	Actions []json.RawMessage `json:"actions"`
	// Conditions are of override and underride rules.
	Conditions []Condition `json:"conditions,omitempty"`
	// Pattern is of content rules.
	Pattern string `json:"pattern,omitempty"`
}

// Condition is a condition of a rule (PushCondition). Which fields it has depends on its kind.
type Condition struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key,omitempty"`
	Pattern *string         `json:"pattern,omitempty"`
	Is      string          `json:"is,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`

	// raw is what a client wrote. It is kept as it is: conditions that this server does not know have fields that it
	// does not know.
	raw json.RawMessage
}

// UnmarshalJSON takes any object with a kind. Fields of another type than they should have are left out, so that the
// condition matches nothing.
func (c *Condition) UnmarshalJSON(b []byte) error {
	var in struct {
		Kind                    *string
		Key, Pattern, Is, Value json.RawMessage
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if in.Kind == nil {
		return errors.New("a condition without a kind")
	}
	*c = Condition{Kind: *in.Kind, Value: in.Value, raw: slices.Clone(b)}
	for _, field := range []struct {
		raw json.RawMessage
		set func(string)
	}{
		{in.Key, func(s string) { c.Key = s }},
		{in.Pattern, func(s string) { c.Pattern = &s }},
		{in.Is, func(s string) { c.Is = s }},
	} {
		var text *string
		if json.Unmarshal(field.raw, &text) == nil && text != nil {
			field.set(*text)
		}
	}
	return nil
}

// MarshalJSON writes what a client wrote.
func (c Condition) MarshalJSON() ([]byte, error) {
	if c.raw != nil {
		return c.raw, nil
	}
	type plain Condition
	return json.Marshal(plain(c))
}

// MarshalJSON writes conditions of override and underride rules even if there are none: the rule matches everything.
func (r Rule) MarshalJSON() ([]byte, error) {
	type plain Rule
	b, err := json.Marshal(plain(r))
	if err != nil || r.Conditions == nil || len(r.Conditions) > 0 {
		return b, err
	}
	return append(b[:len(b)-1], `,"conditions":[]}`...), nil
}

// Actions that rules have.
var (
	Notify    = json.RawMessage(`"notify"`)
	Highlight = json.RawMessage(`{"set_tweak":"highlight"}`)
)

// Sound returns the action that plays a sound.
func Sound(name string) json.RawMessage {
	return json.RawMessage(`{"set_tweak":"sound","value":"` + name + `"}`)
}

func match(key, pattern string) Condition {
	return Condition{Kind: "event_match", Key: key, Pattern: &pattern}
}

func rule(name string, conditions []Condition, actions ...json.RawMessage) Rule {
	if actions == nil {
		actions = []json.RawMessage{}
	}
	return Rule{ID: ".m.rule." + name, Default: true, Enabled: true, Conditions: conditions, Actions: actions}
}

// The events of polls (MSC3381), which clients send under these names.
const (
	pollStart    = "org.matrix.msc3381.poll.start"
	pollResponse = "org.matrix.msc3381.poll.response"
	pollEnd      = "org.matrix.msc3381.poll.end"
)

// pollRule returns a default rule for polls (MSC3930).
func pollRule(name string, conditions []Condition, actions ...json.RawMessage) Rule {
	r := rule("poll_"+name, conditions, actions...)
	r.ID = ".org.matrix.msc3930.rule.poll_" + name
	return r
}

// EncryptedEventRule notifies of every encrypted event in rooms that are not muted, so that the client can decrypt it and judge by
// itself (MSC4028). It is off until a client turns it on: clients that do not expect it count too much.
const EncryptedEventRule = ".org.matrix.msc4028.encrypted_event"

// Defaults returns the rules that the server has for a user (section "Predefined Rules", MSC3930 and MSC4028).
func Defaults(user id.User) Ruleset {
	me, err := json.Marshal(user)
	if err != nil {
		panic(err) // a string always marshals
	}
	is := func(kind, key string, value json.RawMessage) Condition {
		return Condition{Kind: kind, Key: key, Value: value}
	}
	two := Condition{Kind: "room_member_count", Is: "2"}
	master := rule("master", []Condition{})
	master.Enabled = false
	encrypted := Rule{ID: EncryptedEventRule, Default: true, Conditions: []Condition{is("event_property_is", "type", json.RawMessage(`"m.room.encrypted"`))},
		Actions: []json.RawMessage{Notify, json.RawMessage(`{"set_tweak":"org.matrix.msc4062.dont_email"}`)}}
	return Ruleset{
		Override: []Rule{
			master,
			encrypted,
			rule("suppress_notices", []Condition{match("content.msgtype", "m.notice")}),
			rule("invite_for_me", []Condition{match("type", "m.room.member"), match("content.membership", "invite"), match("state_key", string(user))}, Notify, Sound("default")),
			rule("member_event", []Condition{match("type", "m.room.member")}),
			rule("is_user_mention", []Condition{is("event_property_contains", `content.m\.mentions.user_ids`, me)}, Notify, Sound("default"), Highlight),
			rule("is_room_mention", []Condition{is("event_property_is", `content.m\.mentions.room`, json.RawMessage(`true`)), {Kind: "sender_notification_permission", Key: "room"}}, Notify, Highlight),
			rule("tombstone", []Condition{match("type", "m.room.tombstone"), match("state_key", "")}, Notify, Highlight),
			rule("reaction", []Condition{match("type", "m.reaction")}),
			rule("room.server_acl", []Condition{match("type", "m.room.server_acl"), match("state_key", "")}),
			pollRule("response", []Condition{match("type", pollResponse)}),
			rule("suppress_edits", []Condition{is("event_property_is", `content.m\.relates_to.rel_type`, json.RawMessage(`"m.replace"`))}),
		},
		Content: []Rule{}, Room: []Rule{}, Sender: []Rule{},
		Underride: []Rule{
			rule("call", []Condition{match("type", "m.call.invite")}, Notify, Sound("ring")),
			rule("encrypted_room_one_to_one", []Condition{two, match("type", "m.room.encrypted")}, Notify, Sound("default")),
			rule("room_one_to_one", []Condition{two, match("type", "m.room.message")}, Notify, Sound("default")),
			rule("message", []Condition{match("type", "m.room.message")}, Notify),
			rule("encrypted", []Condition{match("type", "m.room.encrypted")}, Notify),
			pollRule("start_one_to_one", []Condition{two, match("type", pollStart)}, Notify, Sound("default")),
			pollRule("start", []Condition{match("type", pollStart)}, Notify),
			pollRule("end_one_to_one", []Condition{two, match("type", pollEnd)}, Notify, Sound("default")),
			pollRule("end", []Condition{match("type", pollEnd)}, Notify),
		},
	}
}

// Parse reads the content of a user's m.push_rules account data; none is the defaults. Rules of the server that the user
// has not are added, those that the server has no more are dropped; of the others the user's word on enabled and actions
// counts.
func Parse(content []byte, user id.User) (Ruleset, error) {
	defaults := Defaults(user)
	if len(content) == 0 {
		return defaults, nil
	}
	var stored struct {
		Global Ruleset `json:"global"`
	}
	if err := json.Unmarshal(content, &stored); err != nil {
		return Ruleset{}, fmt.Errorf("push rules: %w", err)
	}
	merged := stored.Global
	for kind, rules := range merged.kinds() {
		*rules = merge(*rules, *defaults.kind(kind))
	}
	return merged, nil
}

// merge puts the master rule first, the user's own rules behind it, and the server's rules last.
func merge(stored, defaults []Rule) []Rule {
	out := make([]Rule, 0, len(stored)+len(defaults))
	var last []Rule
	for _, d := range defaults {
		if at := slices.IndexFunc(stored, func(r Rule) bool { return r.ID == d.ID }); at >= 0 {
			d.Enabled = stored[at].Enabled
			if stored[at].Actions != nil {
				d.Actions = stored[at].Actions
			}
		}
		if d.ID == masterRule {
			out = append(out, d)
		} else {
			last = append(last, d)
		}
	}
	for _, r := range stored {
		if !strings.HasPrefix(r.ID, ".") {
			out = append(out, r)
		}
	}
	return append(out, last...)
}

// ContentJSON returns the content of m.push_rules account data.
func (r Ruleset) ContentJSON() ([]byte, error) {
	return json.Marshal(map[string]Ruleset{"global": r})
}

// kind returns the rules of a kind, nil if there is no such kind.
func (r *Ruleset) kind(name string) *[]Rule {
	switch name {
	case "override":
		return &r.Override
	case "content":
		return &r.Content
	case "room":
		return &r.Room
	case "sender":
		return &r.Sender
	case "underride":
		return &r.Underride
	}
	return nil
}

func (r *Ruleset) kinds() map[string]*[]Rule {
	return map[string]*[]Rule{"override": &r.Override, "content": &r.Content, "room": &r.Room, "sender": &r.Sender, "underride": &r.Underride}
}

// Silence is how much of a room does not notify.
type Silence int

// The degrees of Silence.
const (
	SilentNot   Silence = iota
	SilentPlain         // a room rule that does not notify: override rules do, such as those of mentions
	SilentAll           // an override rule for the room that does not notify
)

// SilentRooms returns the rooms that rules for whole rooms make silent.
func (r *Ruleset) SilentRooms() map[id.Room]Silence {
	rooms := make(map[id.Room]Silence)
	for _, rule := range r.Room {
		if rule.Enabled && !rule.Notifies() {
			rooms[id.Room(rule.ID)] = SilentPlain
		}
	}
	for _, rule := range r.Override {
		if room, ok := rule.WholeRoom(); ok && rule.Enabled && !rule.Notifies() {
			rooms[room] = SilentAll
		}
	}
	return rooms
}

// Muted says whether nothing notifies: .m.rule.master is on and does not notify.
func (r *Ruleset) Muted() bool {
	return slices.ContainsFunc(r.Override, func(rule Rule) bool { return rule.ID == masterRule && rule.Enabled && !rule.Notifies() })
}

// Notifies says whether the rule's actions notify. Anything but notify changes how, or means nothing (client-server API,
// "Actions": dont_notify and coalesce are ignored).
func (r *Rule) Notifies() bool {
	return slices.ContainsFunc(r.Actions, func(a json.RawMessage) bool { return string(a) == `"notify"` })
}

// WholeRoom returns the room that an override rule is for, if that is its only condition.
func (r *Rule) WholeRoom() (id.Room, bool) {
	if len(r.Conditions) != 1 {
		return "", false
	}
	c := r.Conditions[0]
	if c.Kind != "event_match" || c.Key != "room_id" || c.Pattern == nil {
		return "", false
	}
	return id.Room(*c.Pattern), true
}
