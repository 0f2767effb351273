package pushrule

import (
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"strings"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
)

// Program is a user's rules made ready: the enabled ones in the order in which they take effect, with their conditions
// parsed. Where a rule names its owner the program says "the owner" instead, so that users who left the default rules
// alone have the same program: those of one Class are interchangeable.
type Program struct {
	rules []step
	class [32]byte
}

// step is a rule with all its conditions understood.
type step struct {
	kind, id   string
	ofServer   bool
	conditions []test
	outcome    Outcome
}

// Tweak is an entry of the tweaks that a push gateway gets. Value is JSON.
type Tweak struct {
	Name  string
	Value json.RawMessage
}

// Class identifies what the program does: programs with the same class have the same outcome for the same context.
func (p *Program) Class() [32]byte { return p.class }

// Compile makes the rules of a user ready. Rules with a condition that is not known, or not well-formed, never match
// (section "Conditions").
func Compile(set Ruleset, owner id.User) *Program {
	p := &Program{}
	digest := sha256.New()
	for _, kind := range []string{"override", "content", "room", "sender", "underride"} {
		for _, r := range *set.kind(kind) {
			if !r.Enabled {
				continue
			}
			s := step{kind: kind, id: r.ID, ofServer: strings.HasPrefix(r.ID, "."), outcome: outcomeOf(r.Actions)}
			var ok bool
			if s.conditions, ok = compileConditions(kind, r, owner); !ok {
				continue
			}
			s.outcome.Kind, s.outcome.RuleID = kind, r.ID
			p.rules = append(p.rules, s)
			digest.Write(s.appendClass(nil))
		}
	}
	digest.Sum(p.class[:0])
	return p
}

// appendClass appends all that tells the step from others.
func (s *step) appendClass(b []byte) []byte {
	text := func(t string) { b = canonjson.AppendString(b, t) }
	text(s.kind)
	text(s.id)
	for _, c := range s.conditions {
		text(c.class())
	}
	b = strconv.AppendBool(b, s.outcome.Notify)
	for _, t := range s.outcome.Tweaks {
		text(t.Name)
		b = append(b, t.Value...)
	}
	return append(b, '\n')
}

func compileConditions(kind string, r Rule, owner id.User) ([]test, bool) {
	same := func(key, value string) []test {
		return []test{&propertyIs{path: parsePath(key), value: canonjson.AppendString(nil, value)}}
	}
	switch kind {
	case "content":
		c, ok := compileMatch("content.body", r.Pattern, owner)
		return []test{c}, ok
	case "room":
		return same("room_id", r.ID), true
	case "sender":
		return same("sender", r.ID), true
	}
	tests := make([]test, 0, len(r.Conditions))
	for _, c := range r.Conditions {
		t, ok := compileCondition(c, owner)
		if !ok {
			return nil, false
		}
		tests = append(tests, t)
	}
	return tests, true
}

func compileCondition(c Condition, owner id.User) (test, bool) {
	switch c.Kind {
	case "event_match":
		if c.Key == "" || c.Pattern == nil {
			return nil, false
		}
		return compileMatch(c.Key, *c.Pattern, owner)
	case "event_property_is", "event_property_contains":
		value, err := canonjson.Canonical(c.Value)
		if c.Key == "" || err != nil || value[0] == '{' || value[0] == '[' {
			return nil, false
		}
		self := string(value) == string(canonjson.AppendString(nil, string(owner)))
		if self {
			value = nil
		}
		if c.Kind == "event_property_is" {
			return &propertyIs{path: parsePath(c.Key), value: value, self: self}, true
		}
		return &propertyContains{path: parsePath(c.Key), value: value, self: self}, true
	case "contains_display_name":
		return displayName{}, true
	case "room_member_count":
		return parseMemberCount(c.Is)
	case "sender_notification_permission":
		return mayNotify(c.Key), c.Key != ""
	}
	return nil, false
}

func compileMatch(key, pattern string, owner id.User) (test, bool) {
	if !acceptable(pattern) {
		return nil, false
	}
	m := &eventMatch{path: parsePath(key), pattern: pattern, words: key == "content.body"}
	if pattern == string(owner) && !strings.ContainsAny(pattern, "*?") {
		m.pattern, m.self = "", true
	}
	m.glob = newGlob(m.pattern)
	return m, true
}

// parseMemberCount reads the parameter of room_member_count: a number behind ==, <, >, <=, >= or nothing.
func parseMemberCount(is string) (test, bool) {
	digits := strings.TrimLeft(is, "=<>")
	op := is[:len(is)-len(digits)]
	switch op {
	case "":
		op = "=="
	case "==", "<", ">", "<=", ">=":
	default:
		return nil, false
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return nil, false
	}
	return &memberCount{op: op, n: int(n)}, true
}

// outcomeOf reads the actions of a rule. The historical actions dont_notify and coalesce mean nothing (section
// "Historical Actions").
func outcomeOf(actions []json.RawMessage) Outcome {
	o := Outcome{Matched: true}
	for _, raw := range actions {
		var name string
		if json.Unmarshal(raw, &name) == nil {
			o.Notify = o.Notify || name == "notify"
			continue
		}
		var tweak struct {
			Name  string          `json:"set_tweak"`
			Value json.RawMessage `json:"value"`
		}
		if json.Unmarshal(raw, &tweak) != nil || tweak.Name == "" {
			continue
		}
		switch {
		case tweak.Name == "highlight" && tweak.Value == nil:
			tweak.Value = json.RawMessage("true")
		case tweak.Value == nil:
			tweak.Value = json.RawMessage("null")
		}
		if tweak.Name == "highlight" {
			o.Highlight = string(tweak.Value) == "true"
		}
		o.Tweaks = append(o.Tweaks, Tweak{tweak.Name, tweak.Value})
	}
	return o
}
