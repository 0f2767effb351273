package auth

import (
	"fmt"

	"hanse/pkg/matrix/id"
)

// outranks tells why a sender with the given level may not act on the target:
// it needs the level of the action, and more power than the target. An empty
// answer means that it may.
func (c *check) outranks(sender, needed int64, target id.User) string {
	if sender < needed {
		return fmt.Sprintf("needs power level %d, sender %s has %d", needed, c.ev.Sender, sender)
	}
	level, err := c.power(target)
	if err != nil {
		return fmt.Sprintf("power level of the target: %v", err)
	}
	if level >= sender {
		return fmt.Sprintf("target %s has power level %d, sender %s has %d", target, level, c.ev.Sender, sender)
	}
	return ""
}

// checkPowerLevels is the rule for m.room.power_levels.
func (c *check) checkPowerLevels(sender int64) *Error {
	next := project(c.ev).power
	if err := c.checkLevelFormats(next); err != nil {
		return err
	}
	if c.rules.PrivilegedCreators {
		for _, u := range createOf(c.create).creators {
			if _, ok := next.users.levels[string(u)]; ok {
				return c.reject(c.n.plCreators(), "users names the creator %s", u)
			}
		}
	}
	current := c.powerLevels()
	if current == nil {
		return nil
	}
	return c.checkLevelChanges(current, next, sender)
}

// checkLevelFormats are the steps on the shape of the content.
func (c *check) checkLevelFormats(next *PowerLevels) *Error {
	if c.rules.IntegerPowerLevels {
		for i, l := range next.props {
			if l != levelAbsent && !isLevel(l) {
				return c.reject(c.n.plIntegers(), "%s is not an integer", propNames[i])
			}
		}
		if err := c.checkLevelMap("events", &next.events, c.n.plMaps); err != nil {
			return err
		}
		if err := c.checkLevelMap("notifications", &next.notifications, c.n.plMaps); err != nil {
			return err
		}
	}
	rule := func() string { return c.n.plStep(plUsers) }
	if err := c.checkLevelMap("users", &next.users, rule); err != nil {
		return err
	}
	for u := range next.users.levels {
		if _, err := id.ParseUser(u); err != nil {
			return c.reject(rule(), "users: %v", err)
		}
	}
	return nil
}

func (c *check) checkLevelMap(name string, m *levelMap, rule func() string) *Error {
	if m.present && !m.object {
		return c.reject(rule(), "%s is not an object", name)
	}
	if k, bad := m.bad(); bad {
		return c.reject(rule(), "%s[%q] is not an integer", name, k)
	}
	return nil
}

// checkLevelChanges compares the current with the next power levels.
func (c *check) checkLevelChanges(current, next *PowerLevels, sender int64) *Error {
	for i, name := range propNames {
		if err := c.checkLevelChange(name, current.props[i], next.props[i], sender); err != nil {
			return err
		}
	}
	maps := []levelChange{{"events", &current.events, &next.events}}
	if c.rules.NotificationLevelsAuth {
		maps = append(maps, levelChange{"notifications", &current.notifications, &next.notifications})
	}
	for _, m := range maps {
		if err := c.checkOldEntries(m, func(string) int64 { return sender }, plOldEvents); err != nil {
			return err
		}
	}
	for _, m := range maps {
		if err := c.checkNewEntries(m, sender, plNewEvents); err != nil {
			return err
		}
	}
	users := levelChange{"users", &current.users, &next.users}
	below := func(user string) int64 {
		if user == string(c.ev.Sender) {
			return Infinite // the sender's own entry may change
		}
		if sender == Infinite {
			return Infinite
		}
		return sender - 1
	}
	if err := c.checkOldEntries(users, below, plOldUsers); err != nil {
		return err
	}
	return c.checkNewEntries(users, sender, plNewUsers)
}

// checkLevelChange is the step on the integer properties.
func (c *check) checkLevelChange(name string, current, next, sender int64) *Error {
	if current == next {
		return nil
	}
	if current != levelAbsent && !isLevel(current) {
		return c.reject(c.n.plStep(plProperties, 1), "current %s is not an integer", name)
	}
	if next != levelAbsent && !isLevel(next) {
		return c.reject(c.n.plStep(plProperties, 2), "%s is not an integer", name)
	}
	if current > sender {
		return c.reject(c.n.plStep(plProperties, 1), "%s is %d, sender has %d", name, current, sender)
	}
	if next > sender {
		return c.reject(c.n.plStep(plProperties, 2), "%s becomes %d, sender has %d", name, next, sender)
	}
	return nil
}

type levelChange struct {
	name          string
	current, next *levelMap
}

// checkOldEntries: an entry that is changed or removed had at most the level
// that most allows for its key.
func (c *check) checkOldEntries(m levelChange, most func(key string) int64, step int) *Error {
	if m.current.present && !m.current.object {
		return c.reject(c.n.plStep(step, 1), "current %s is not an object", m.name)
	}
	worst, found := "", false
	for k, l := range m.current.levels {
		if next, ok := m.next.levels[k]; ok && next == l && isLevel(l) {
			continue
		}
		if (!isLevel(l) || l > most(k)) && (!found || k < worst) {
			worst, found = k, true
		}
	}
	if !found {
		return nil
	}
	if l := m.current.levels[worst]; isLevel(l) {
		return c.reject(c.n.plStep(step, 1), "%s[%q] is %d: too much for sender %s to change", m.name, worst, l, c.ev.Sender)
	}
	return c.reject(c.n.plStep(step, 1), "current %s[%q] is not an integer", m.name, worst)
}

// checkNewEntries: an entry that is added or changed has at most the sender's
// level.
func (c *check) checkNewEntries(m levelChange, sender int64, step int) *Error {
	if m.next.present && !m.next.object {
		return c.reject(c.n.plStep(step, 1), "%s is not an object", m.name)
	}
	worst, found := "", false
	for k, l := range m.next.levels {
		if old, ok := m.current.levels[k]; ok && old == l && isLevel(l) {
			continue
		}
		if (!isLevel(l) || l > sender) && (!found || k < worst) {
			worst, found = k, true
		}
	}
	if !found {
		return nil
	}
	if l := m.next.levels[worst]; isLevel(l) {
		return c.reject(c.n.plStep(step, 1), "%s[%q] becomes %d, sender %s has %d", m.name, worst, l, c.ev.Sender, sender)
	}
	return c.reject(c.n.plStep(step, 1), "%s[%q] is not an integer", m.name, worst)
}
