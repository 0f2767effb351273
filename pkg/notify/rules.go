package notify

import (
	"bytes"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/view"
)

// PushRules is the type of the account data that has a user's rules.
const PushRules = "m.push_rules"

// Level is how much of a room notifies a user.
type Level int

// The levels, from the loudest one.
const (
	All      Level = iota // as the other rules say
	Mentions              // a room rule that does not notify: only override and content rules do
	None                  // an override rule for the room that does not notify, or everything is off
)

// Rules is what of a user's account data says what notifies them. It is never changed, only replaced.
type Rules struct {
	User id.User
	// Ignored are the users whose events notify of nothing.
	Ignored view.Ignored

	off       bool // .m.rule.master
	rooms     map[id.Room]Level
	program   *pushrule.Program // all rules, if some look at single messages otherwise than the default ones; or nil
	rawRules  []byte
	rawIgnore []byte
}

// NewRules reads the contents of a user's PushRules and view.IgnoredUsers account data; empty ones are those of somebody who has
// none. What cannot be read counts as the default rules. old may be nil; what it has of the same contents is not read again.
func NewRules(user id.User, old *Rules, rules, ignore []byte) *Rules {
	r := &Rules{User: user, rawRules: rules, rawIgnore: ignore}
	if old != nil && bytes.Equal(old.rawRules, rules) {
		r.off, r.rooms, r.program = old.off, old.rooms, old.program
	} else {
		r.parse(rules)
	}
	if old != nil && bytes.Equal(old.rawIgnore, ignore) {
		r.Ignored = old.Ignored
	} else {
		r.Ignored = view.ParseIgnored(ignore)
	}
	return r
}

// parse takes out of the rules what concerns whole rooms, and sees whether the default rules are left.
func (r *Rules) parse(content []byte) {
	if len(content) == 0 {
		return
	}
	set, err := pushrule.Parse(content, r.User)
	if err != nil {
		return
	}
	var rest pushrule.Ruleset
	r.off, r.rooms, rest = takeRooms(set)
	if pushrule.Compile(rest, r.User).Class() != defaults.Class() {
		r.program = pushrule.Compile(set, r.User)
	}
}

// defaults are the default rules. Whose they are makes no difference to a program.
var defaults = pushrule.Compile(pushrule.Defaults("@nobody:localhost"), "@nobody:localhost")

// takeRooms splits a rule set into whether everything is off, the levels of rooms, and all other rules.
func takeRooms(set pushrule.Ruleset) (off bool, rooms map[id.Room]Level, rest pushrule.Ruleset) {
	rest = set
	rest.Override, rest.Room = nil, nil
	rooms = make(map[id.Room]Level)
	for _, r := range set.Override {
		silent := r.Enabled && !r.Notifies()
		room, whole := r.WholeRoom()
		switch {
		case r.ID == ".m.rule.master" && silent:
			off = true
		case silent && whole:
			rooms[room] = None
		default:
			rest.Override = append(rest.Override, r)
		}
	}
	for _, r := range set.Room {
		if r.Enabled && !r.Notifies() {
			rooms[id.Room(r.ID)] = max(rooms[id.Room(r.ID)], Mentions)
		} else {
			rest.Room = append(rest.Room, r)
		}
	}
	return off, rooms, rest
}

// Level returns how much of a room notifies the user.
func (r *Rules) Level(room id.Room) Level {
	if r.off {
		return None
	}
	return r.rooms[room]
}

// Off reports whether the user has turned all notifications off.
func (r *Rules) Off() bool { return r.off }

// Own reports whether the user has rules that look at single messages otherwise than the default ones: then an outcome is not the
// default one cut down by the level of the room.
func (r *Rules) Own() bool { return r.program != nil }

// Raw returns the contents that the rules were read from: those of PushRules and of view.IgnoredUsers.
func (r *Rules) Raw() (rules, ignore []byte) { return r.rawRules, r.rawIgnore }

// With returns the rules with those contents replaced that are new.
func (r *Rules) With(rules []byte, newRules bool, ignore []byte, newIgnore bool) *Rules {
	if !newRules {
		rules = r.rawRules
	}
	if !newIgnore {
		ignore = r.rawIgnore
	}
	return NewRules(r.User, r, rules, ignore)
}

// Class identifies rules of the user's own: those of one class have the same outcome for all users whom an event does not name,
// if its outcome for one of them is not personal.
func (r *Rules) Class() (class [32]byte) {
	if r.program != nil {
		class = r.program.Class()
	}
	return class
}

// JudgeOthers returns what an event means to those of the class of the rules whom it does not name, and who do not ignore its
// sender.
func (r *Rules) JudgeOthers(v *pushrule.View, e *event.PDU, room *Room) pushrule.Outcome {
	if r.off || r.program == nil {
		return pushrule.Outcome{}
	}
	return r.program.Evaluate(v, room.contextOf("", e))
}

// Judge returns what an event means to the user. It is nothing if somebody sent it whom the user ignores.
func (r *Rules) Judge(v *pushrule.View, e *event.PDU, room *Room) pushrule.Outcome {
	o := r.JudgeLoud(v, e, room)
	if r.program != nil {
		return o
	}
	return r.Level(e.RoomID).Cut(o)
}

// JudgeLoud is Judge as if no room were silent for a user without rules of their own: counts apply the level of the room by themselves.
func (r *Rules) JudgeLoud(v *pushrule.View, e *event.PDU, room *Room) pushrule.Outcome {
	switch {
	case r.Ignored.Has(e.Sender):
		return pushrule.Outcome{}
	case r.program != nil:
		return r.program.Evaluate(v, room.contextOf(r.User, e))
	}
	return defaults.Evaluate(v, room.contextOf(r.User, e))
}

// JudgeAll returns what an event means to those who have the default rules and are not named in it, before the level of the room
// is applied.
func JudgeAll(v *pushrule.View, e *event.PDU, room *Room) pushrule.Outcome {
	return defaults.Evaluate(v, room.contextOf("", e))
}

// Cut applies a level to an outcome of the default rules: where only mentions notify, the rules behind those for rooms do not
// (client-server API, "Push Rules": the order of kinds).
func (l Level) Cut(o pushrule.Outcome) pushrule.Outcome {
	if l == None || l == Mentions && o.Kind != "override" && o.Kind != "content" {
		return pushrule.Outcome{}
	}
	return o
}
