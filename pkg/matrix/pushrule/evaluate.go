package pushrule

import (
	"bytes"
	"fmt"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
)

// Context is what conditions look at beside the event.
type Context struct {
	// User is whose rules they are. Empty: somebody whom the event does not name, which gives the outcome for all users of a
	// class but those that it names.
	User id.User
	// DisplayName is the user's name in the room; empty for none.
	DisplayName string
	// Members is how many have joined the room.
	Members int
	// MayNotify says whether the sender's power level in the room is at least that of the notifications of a key; the
	// level of keys that the room does not set is 50. nil is no.
	MayNotify func(key string) bool
}

// Outcome is what happens to an event. Its zero value is nothing: no rule matched.
type Outcome struct {
	Matched bool
	// Kind and RuleID name the rule that matched.
	Kind, RuleID string
	Notify       bool
	Highlight    bool
	// Tweaks belong to the program: do not change them.
	Tweaks []Tweak
	// Personal is set if the outcome may differ for another user of the same class in the same room: the event names
	// users where a rule looks for its owner, or a display name was looked for.
	Personal bool
}

// Evaluate returns what the first rule that matches says (section "Push Rules"). Nothing happens to the user's own events.
func (p *Program) Evaluate(v *View, c Context) Outcome {
	if v.event.Sender == c.User {
		return Outcome{}
	}
	v.steps = maxSteps
	personal := false
	for i := range p.rules {
		if p.rules[i].ofServer {
			v.steps = maxSteps
		}
		if p.rules[i].matches(v, &c, &personal) {
			o := p.rules[i].outcome
			o.Personal = personal
			return o
		}
	}
	return Outcome{Personal: personal}
}

func (s *step) matches(v *View, c *Context, personal *bool) bool {
	for _, t := range s.conditions {
		ok, depends := t.holds(v, c)
		*personal = *personal || depends
		if !ok {
			return false
		}
	}
	return true
}

// test is a condition. depends says that the answer depends on who the user is.
type test interface {
	holds(v *View, c *Context) (ok, depends bool)
	class() string
}

type eventMatch struct {
	path    path
	pattern string
	glob    glob
	words   bool
	self    bool // the pattern is the owner
}

func (m *eventMatch) holds(v *View, c *Context) (ok, depends bool) {
	p := v.at(m.path)
	if !p.text {
		return false, false
	}
	if m.self && c.User == "" {
		return false, true
	}
	g := m.glob
	if m.self {
		g = literal(string(c.User))
	}
	if m.words {
		return g.words(p.lower, &v.steps), m.self
	}
	return g.whole(p.lower, &v.steps), m.self
}

func (m *eventMatch) class() string {
	return fmt.Sprintf("match %q %q %v", m.path.text, m.pattern, m.self)
}

type propertyIs struct {
	path  path
	value []byte
	self  bool // the value is the owner
}

func (t *propertyIs) holds(v *View, c *Context) (ok, depends bool) {
	raw := v.at(t.path).raw
	if raw == nil {
		return false, false
	}
	return bytes.Equal(raw, ownerOr(t.value, t.self, c)) && !(t.self && c.User == ""), t.self
}

func (t *propertyIs) class() string { return fmt.Sprintf("is %q %q %v", t.path.text, t.value, t.self) }

type propertyContains struct {
	path  path
	value []byte
	self  bool
}

func (t *propertyContains) holds(v *View, c *Context) (ok, depends bool) {
	raw := v.at(t.path).raw
	if len(raw) == 0 || raw[0] != '[' || !v.steps.take(len(raw)) {
		return false, false
	}
	list, err := canonjson.Elements(raw)
	if err != nil || len(list) == 0 {
		return false, false
	}
	if t.self && c.User == "" {
		return false, true
	}
	want := ownerOr(t.value, t.self, c)
	for _, e := range list {
		if bytes.Equal(e, want) {
			return true, t.self
		}
	}
	return false, t.self
}

func (t *propertyContains) class() string {
	return fmt.Sprintf("contains %q %q %v", t.path.text, t.value, t.self)
}

func ownerOr(value []byte, self bool, c *Context) []byte {
	if self {
		return canonjson.AppendString(nil, string(c.User))
	}
	return value
}

// displayName is the deprecated condition contains_display_name: clients still have rules with it.
type displayName struct{}

var bodyPath = parsePath("content.body")

func (displayName) holds(v *View, c *Context) (ok, depends bool) {
	p := v.at(bodyPath)
	if !p.text {
		return false, false
	}
	return c.DisplayName != "" && len(c.DisplayName) <= maxPattern && literalWords(c.DisplayName, p.lower, &v.steps), true
}

func (displayName) class() string { return "display name" }

type memberCount struct {
	op string
	n  int
}

func (m *memberCount) holds(_ *View, c *Context) (ok, depends bool) {
	switch m.op {
	case "==":
		return c.Members == m.n, false
	case "<":
		return c.Members < m.n, false
	case ">":
		return c.Members > m.n, false
	case "<=":
		return c.Members <= m.n, false
	}
	return c.Members >= m.n, false
}

func (m *memberCount) class() string { return fmt.Sprint("members ", m.op, m.n) }

// mayNotify is the key of sender_notification_permission.
type mayNotify string

func (k mayNotify) holds(_ *View, c *Context) (ok, depends bool) {
	return c.MayNotify != nil && c.MayNotify(string(k)), false
}

func (k mayNotify) class() string { return fmt.Sprintf("may notify %q", string(k)) }
