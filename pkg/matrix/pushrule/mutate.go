package pushrule

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// Reasons why a change of a rule is refused.
var (
	ErrNotFound = errors.New("no such push rule")
	ErrInvalid  = errors.New("invalid push rule")
)

// Find returns a rule of a kind.
func (r *Ruleset) Find(kind, ruleID string) (*Rule, error) {
	rules := r.kind(kind)
	if rules == nil {
		return nil, invalid("there is no kind " + kind)
	}
	if at := index(*rules, ruleID); at >= 0 {
		return &(*rules)[at], nil
	}
	return nil, ErrNotFound
}

func index(rules []Rule, ruleID string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.ID == ruleID })
}

type invalidError struct{ reason string }

func (e *invalidError) Error() string { return e.reason }
func (e *invalidError) Unwrap() error { return ErrInvalid }

func invalid(reason string) error { return &invalidError{reason} }

// Put adds a rule of the user's own, or replaces it: before or after another of the user's own, else as the first of its
// kind, or where it was (PUT /pushrules/global/{kind}/{ruleId}).
func (r *Ruleset) Put(kind string, rule Rule, before, after string) error {
	rules := r.kind(kind)
	if rules == nil {
		return invalid("there is no kind " + kind)
	}
	if err := check(kind, &rule); err != nil {
		return err
	}
	rule.Enabled = true
	list := slices.Clone(*rules)
	old := index(list, rule.ID)
	if old >= 0 {
		rule.Enabled = list[old].Enabled
	}
	if old >= 0 && before == "" && after == "" {
		list[old] = rule
		*rules = list
		return nil
	}
	if old >= 0 {
		list = slices.Delete(list, old, old+1)
	}
	at, err := place(list, before, after)
	if err != nil {
		return err
	}
	*rules = slices.Insert(list, at, rule)
	return nil
}

// place says where a rule goes: next to another of the user's own, or first, but behind the master rule. If both are
// given, before counts.
func place(list []Rule, before, after string) (int, error) {
	for _, anchor := range []string{before, after} {
		if strings.HasPrefix(anchor, ".") {
			return 0, invalid("rules cannot be placed among those of the server")
		}
	}
	switch {
	case before != "":
		if at := index(list, before); at >= 0 {
			return at, nil
		}
		return 0, ErrNotFound
	case after != "":
		if at := index(list, after); at >= 0 {
			return at + 1, nil
		}
		return 0, ErrNotFound
	}
	at := 0
	for at < len(list) && list[at].ID == masterRule {
		at++
	}
	return at, nil
}

func check(kind string, rule *Rule) error {
	if rule.ID == "" || strings.HasPrefix(rule.ID, ".") || strings.ContainsAny(rule.ID, `/\`) {
		return invalid("a rule's id must not be empty, begin with a dot, or hold a slash or backslash")
	}
	rule.Default = false
	switch kind {
	case "override", "underride":
		if rule.Conditions == nil {
			rule.Conditions = []Condition{}
		}
		for _, c := range rule.Conditions {
			if c.Kind == "" {
				return invalid("a condition without a kind")
			}
			if c.Pattern != nil && !acceptable(*c.Pattern) {
				return invalid("the pattern is too long, or has too many question marks")
			}
		}
		rule.Pattern = ""
	case "content":
		if rule.Pattern == "" {
			return invalid("a content rule needs a pattern")
		}
		if !acceptable(rule.Pattern) {
			return invalid("the pattern is too long, or has too many question marks")
		}
		rule.Conditions = nil
	default:
		rule.Conditions, rule.Pattern = nil, ""
	}
	return CheckActions(rule.Actions)
}

// CheckActions says whether these are actions.
func CheckActions(actions []json.RawMessage) error {
	if actions == nil {
		return invalid("actions are missing")
	}
	for _, a := range actions {
		var name string
		if json.Unmarshal(a, &name) == nil {
			if name != "notify" && name != "dont_notify" && name != "coalesce" {
				return invalid("unknown action " + name)
			}
			continue
		}
		var tweak struct {
			Set *string `json:"set_tweak"`
		}
		if json.Unmarshal(a, &tweak) != nil || tweak.Set == nil {
			return invalid("an action is neither a name nor a tweak")
		}
	}
	return nil
}

// Delete removes a rule of the user's own.
func (r *Ruleset) Delete(kind, ruleID string) error {
	rules := r.kind(kind)
	if rules == nil {
		return invalid("there is no kind " + kind)
	}
	at := index(*rules, ruleID)
	if at < 0 {
		return ErrNotFound
	}
	if (*rules)[at].Default {
		return invalid("a rule of the server cannot be deleted")
	}
	*rules = slices.Delete(slices.Clone(*rules), at, at+1)
	return nil
}

// SetEnabled turns a rule on or off.
func (r *Ruleset) SetEnabled(kind, ruleID string, enabled bool) error {
	rule, err := r.Find(kind, ruleID)
	if err == nil {
		rule.Enabled = enabled
	}
	return err
}

// SetActions replaces the actions of a rule.
func (r *Ruleset) SetActions(kind, ruleID string, actions []json.RawMessage) error {
	rule, err := r.Find(kind, ruleID)
	if err != nil {
		return err
	}
	if err := CheckActions(actions); err != nil {
		return err
	}
	rule.Actions = actions
	return nil
}
