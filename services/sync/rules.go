package sync

import (
	"context"
	"encoding/json"
	"errors"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/userdb"
)

// pushRules is the type of the account data that holds the push rules.
const pushRules = "m.push_rules"

// ruleLevel is how much of a room notifies a user.
type ruleLevel int

const (
	notifyAll      ruleLevel = iota // as the default rules say
	notifyMentions                  // a room rule without notify: only what override rules add
	notifyNone                      // an override rule for the room without notify, or everything is off
)

// rulesAt is the user's rules as far as they concern unread counts.
type rulesAt struct {
	known bool
	off   bool // .m.rule.master
	rooms map[id.Room]ruleLevel
}

// dropRules makes the rules be read anew.
func (u *user) dropRules() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rules = rulesAt{}
}

func (s *Service) levelOf(ctx context.Context, u *user, room id.Room) (ruleLevel, error) {
	u.mu.Lock()
	rules := u.rules
	u.mu.Unlock()
	if !rules.known {
		content, err := s.userdb.AccountData(ctx, u.id, "", pushRules)
		if err != nil && !errors.Is(err, userdb.ErrNotFound) {
			return 0, err
		}
		rules = parseRules(content)
		u.mu.Lock()
		u.rules = rules
		u.mu.Unlock()
	}
	if rules.off {
		return notifyNone, nil
	}
	return rules.rooms[room], nil
}

// parseRules reads what concerns whole rooms. Rules that look at single messages beyond the default ones change
// notifications, not the counts.
func parseRules(content []byte) rulesAt {
	type rule struct {
		ID         string            `json:"rule_id"`
		Enabled    bool              `json:"enabled"`
		Actions    []json.RawMessage `json:"actions"`
		Conditions []struct {
			Kind    string `json:"kind"`
			Key     string `json:"key"`
			Pattern string `json:"pattern"`
		} `json:"conditions"`
	}
	var stored struct {
		Global struct {
			Override []rule `json:"override"`
			Room     []rule `json:"room"`
		} `json:"global"`
	}
	r := rulesAt{known: true, rooms: make(map[id.Room]ruleLevel)}
	if len(content) == 0 || json.Unmarshal(content, &stored) != nil {
		return r
	}
	notifies := func(actions []json.RawMessage) bool {
		for _, a := range actions {
			if string(a) == `"notify"` || string(a) == `"coalesce"` {
				return true
			}
		}
		return false
	}
	for _, rule := range stored.Global.Room {
		if rule.Enabled && !notifies(rule.Actions) {
			r.rooms[id.Room(rule.ID)] = notifyMentions
		}
	}
	for _, rule := range stored.Global.Override {
		if !rule.Enabled || notifies(rule.Actions) {
			continue
		}
		if rule.ID == ".m.rule.master" {
			r.off = true
		}
		if len(rule.Conditions) == 1 && rule.Conditions[0].Kind == "event_match" && rule.Conditions[0].Key == "room_id" {
			r.rooms[id.Room(rule.Conditions[0].Pattern)] = notifyNone
		}
	}
	return r
}

// addDefaultPushRules adds the rules of a user who never changed any: clients expect them in the first answer.
func (s *Service) addDefaultPushRules(a *answer, p *poll, stored []userdb.AccountData) error {
	if !p.filter.AccountData.wantsType(pushRules) {
		return nil
	}
	for _, d := range stored {
		if d.Room == "" && d.Type == pushRules {
			return nil
		}
	}
	content, err := json.Marshal(struct {
		Global pushrule.Ruleset `json:"global"`
	}{pushrule.Defaults(p.who.User)})
	if err != nil {
		return err
	}
	a.accountData = append(a.accountData, basicEvent(pushRules, content))
	return nil
}
