package auth

import (
	"errors"
	"fmt"
	"math"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// Infinite is the power level of room creators since version 12. No level
// that an event can express reaches it.
const Infinite int64 = math.MaxInt64

// Marks of levels that are not numbers. Real levels saturate at ±maxLevel.
const (
	levelAbsent int64 = math.MinInt64 + iota
	levelNull
	levelBad
)

const maxLevel = math.MaxInt64 - 16

// isLevel tells a number from the marks.
func isLevel(l int64) bool { return l >= -maxLevel }

// The integer properties of m.room.power_levels, in the order of the rule.
const (
	propUsersDefault = iota
	propEventsDefault
	propStateDefault
	propBan
	propRedact
	propKick
	propInvite
	propCount
)

var propNames = [propCount]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

// propDefaults: m.room.power_levels of the client-server API. They hold both
// for a property that is absent and for a room without power levels.
var propDefaults = [propCount]int64{0, 0, 50, 50, 50, 50, 0}

// levelMap is one of the three maps of levels.
type levelMap struct {
	levels  map[string]int64
	present bool
	object  bool // present and an object
}

// bad returns a key whose value is not an integer of the room version.
func (m *levelMap) bad() (string, bool) {
	found, any := "", false
	for k, l := range m.levels {
		if !isLevel(l) && (!any || k < found) {
			found, any = k, true
		}
	}
	return found, any
}

// PowerLevels is the parsed content of an m.room.power_levels event. It is
// immutable and safe for concurrent use. The zero value, or a nil pointer, is
// the power levels of a room that has none; note that there the creator has
// level 100 in versions 1 to 11, see [PowerOf].
type PowerLevels struct {
	props         [propCount]int64
	events        levelMap
	notifications levelMap
	users         levelMap
	parsed        bool
}

// ErrMalformed marks levels that cannot be read from malformed power levels.
var ErrMalformed = errors.New("malformed power levels")

// ParsePowerLevels parses the content of an m.room.power_levels event by the
// number formats of the room version. The result is never nil: with an error
// (which wraps [ErrMalformed]) it holds what could be read.
func ParsePowerLevels(content []byte, rules *roomversion.Rules) (*PowerLevels, error) {
	p := &PowerLevels{parsed: true}
	c, ok := object(content)
	for i, name := range propNames {
		raw, _ := c.Get(name)
		p.props[i] = parseLevel(raw, rules)
	}
	p.events = parseLevelMap(c, "events", rules)
	p.notifications = parseLevelMap(c, "notifications", rules)
	p.users = parseLevelMap(c, "users", rules)
	if !ok {
		return p, fmt.Errorf("%w: content is not an object", ErrMalformed)
	}
	return p, p.malformed()
}

func parseLevelMap(c canonjson.Object, name string, rules *roomversion.Rules) levelMap {
	raw, present := c.Get(name)
	m := levelMap{present: present}
	entries, ok := object(raw)
	if !ok {
		return m
	}
	m.object = true
	m.levels = make(map[string]int64, len(entries))
	for _, e := range entries {
		m.levels[e.Key] = parseLevel(e.Raw, rules)
	}
	return m
}

// malformed reports the first thing that is not as the room version's format
// demands.
func (p *PowerLevels) malformed() error {
	for i, l := range p.props {
		if l == levelBad || l == levelNull {
			return fmt.Errorf("%w: %s", ErrMalformed, propNames[i])
		}
	}
	for _, m := range []struct {
		name string
		*levelMap
	}{{"events", &p.events}, {"notifications", &p.notifications}, {"users", &p.users}} {
		if m.present && !m.object {
			return fmt.Errorf("%w: %s is not an object", ErrMalformed, m.name)
		}
		if k, bad := m.bad(); bad {
			return fmt.Errorf("%w: %s[%q]", ErrMalformed, m.name, k)
		}
	}
	return nil
}

// prop reads one of the integer properties.
func (p *PowerLevels) prop(i int) (int64, error) {
	if p == nil || !p.parsed {
		return propDefaults[i], nil
	}
	switch l := p.props[i]; l {
	case levelAbsent, levelNull:
		return propDefaults[i], nil
	case levelBad:
		return 0, fmt.Errorf("%w: %s", ErrMalformed, propNames[i])
	default:
		return l, nil
	}
}

// entry reads a level from a map, or the default property if it has none.
func (p *PowerLevels) entry(m *levelMap, key string, otherwise int) (int64, error) {
	if m.present && !m.object {
		return 0, fmt.Errorf("%w: not an object", ErrMalformed)
	}
	l, ok := m.levels[key]
	switch {
	case !ok || l == levelNull:
		return p.prop(otherwise)
	case l == levelBad:
		return 0, fmt.Errorf("%w: %q", ErrMalformed, key)
	default:
		return l, nil
	}
}

// User returns the level of a user by this event alone: creators of version
// 12, and the creator of a room without power levels, are not considered; see
// [PowerOf].
func (p *PowerLevels) User(user id.User) (int64, error) {
	if p == nil {
		return propDefaults[propUsersDefault], nil
	}
	return p.entry(&p.users, string(user), propUsersDefault)
}

// Required returns the "required power level" of an event type.
func (p *PowerLevels) Required(typ string, state bool) (int64, error) {
	otherwise := propEventsDefault
	if state {
		otherwise = propStateDefault
	}
	if p == nil {
		return propDefaults[otherwise], nil
	}
	return p.entry(&p.events, typ, otherwise)
}

// Invite returns the invite level, by default 0.
func (p *PowerLevels) Invite() (int64, error) { return p.prop(propInvite) }

// Kick returns the kick level, by default 50.
func (p *PowerLevels) Kick() (int64, error) { return p.prop(propKick) }

// Ban returns the ban level, by default 50.
func (p *PowerLevels) Ban() (int64, error) { return p.prop(propBan) }

// Redact returns the redact level, by default 50.
func (p *PowerLevels) Redact() (int64, error) { return p.prop(propRedact) }

// Notification returns the level needed to trigger a notification such as
// "room", by default 50.
func (p *PowerLevels) Notification(key string) (int64, error) {
	if p != nil {
		if l, ok := p.notifications.levels[key]; ok && l != levelNull {
			if l == levelBad {
				return 0, fmt.Errorf("%w: notifications[%q]", ErrMalformed, key)
			}
			return l, nil
		}
	}
	return 50, nil
}

// Users calls yield for each user that the event names, in no order, until it
// returns false. Values that are not integers are left out.
func (p *PowerLevels) Users(yield func(id.User, int64) bool) {
	if p == nil {
		return
	}
	for u, l := range p.users.levels {
		if isLevel(l) && !yield(id.User(u), l) {
			return
		}
	}
}

// PowerLevelsOf returns the parsed power levels of a room's state, nil if it
// has none.
func PowerLevelsOf(st Lookup) *PowerLevels {
	if ev := st.StateEvent(typePowerLevels, ""); ev != nil {
		return project(ev).power
	}
	return nil
}

// PowerOf returns the power level of a user in a room's state: [Infinite] for
// the creators of rooms of version 12, 100 for the creator of an older room
// without power levels. A level that is malformed counts as 0, as the power to
// do nothing; the rules themselves refuse in that case.
func PowerOf(user id.User, st Lookup) int64 {
	l, err := powerOf(user, st.StateEvent(typeCreate, ""), st.StateEvent(typePowerLevels, ""))
	if err != nil {
		return 0
	}
	return l
}

// powerOf is [PowerOf] with the state at hand; either event may be nil.
func powerOf(user id.User, create, levels *event.PDU) (int64, error) {
	if create != nil && create.Rules.PrivilegedCreators && createOf(create).isCreator(user) {
		return Infinite, nil
	}
	if levels != nil {
		return project(levels).power.User(user)
	}
	if create != nil && !create.Rules.PrivilegedCreators && user != "" && createOf(create).creator == user {
		return 100, nil
	}
	return 0, nil
}
