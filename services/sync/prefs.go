package sync

import (
	"bytes"
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/invitefilter"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// The types of the account data that change what a user is told.
const (
	pushRules = "m.push_rules"
	ignored   = view.IgnoredUsers
)

// ruleLevel is how much of a room notifies a user.
type ruleLevel int

const (
	notifyAll      ruleLevel = iota // as the default rules say
	notifyMentions                  // a room rule without notify: only what override rules add
	notifyNone                      // an override rule for the room without notify, or everything is off
)

// prefs is what of a user's account data concerns answers. It is never changed, only replaced.
type prefs struct {
	seq       int64 // position of the user's stream up to which it counts
	off       bool  // .m.rule.master
	rooms     map[id.Room]ruleLevel
	program   *pushrule.Program // all rules, if some look at single messages otherwise than the default ones; or nil
	ignored   view.Ignored
	invites   invitefilter.Rules
	muted     []userdb.MutedTime // when the rules muted everything; what came then does not count
	rawRules  []byte
	rawIgnore []byte
}

// prefsOf returns the user's preferences as of the user's position.
func (s *Service) prefsOf(ctx context.Context, u *user) (*prefs, error) {
	u.mu.Lock()
	old, seq := u.prefs, u.seq
	u.mu.Unlock()
	if old != nil && old.seq >= seq {
		return old, nil
	}
	data, err := s.userdb.AccountDataOf(ctx, u.id, append([]string{pushRules, ignored}, invitefilter.Types...)...)
	if err != nil {
		return nil, err
	}
	p := newPrefs(u.id, old, seq, data[pushRules], data[ignored])
	p.invites = invitefilter.Parse(data)
	if p.muted, err = s.userdb.MutedTimes(ctx, u.id); err != nil {
		return nil, err
	}
	return u.setPrefs(p), nil
}

// learn takes account data that was read in (after, upTo] into the preferences, which saves reading it again.
func (u *user) learn(data []userdb.AccountData, after, upTo int64) {
	u.mu.Lock()
	old := u.prefs
	u.mu.Unlock()
	if old == nil || old.seq < after || old.seq >= upTo {
		return
	}
	ignore := old.rawIgnore
	for _, d := range data {
		switch {
		case d.Room == "" && d.Type == pushRules:
			return // muted times change with the rules, and are not read here
		case d.Room == "" && slices.Contains(invitefilter.Types, d.Type):
			return
		case d.Room == "" && d.Type == ignored:
			ignore = d.Content
		}
	}
	p := newPrefs(u.id, old, upTo, old.rawRules, ignore)
	p.invites = old.invites
	u.setPrefs(p)
}

func (u *user) setPrefs(p *prefs) *prefs {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.prefs == nil || u.prefs.seq <= p.seq {
		u.prefs = p
	}
	return u.prefs
}

func newPrefs(who id.User, old *prefs, seq int64, rules, ignore []byte) *prefs {
	p := &prefs{seq: seq, rawRules: rules, rawIgnore: ignore}
	if old != nil && bytes.Equal(old.rawRules, rules) {
		p.muted = old.muted
		p.off, p.rooms, p.program = old.off, old.rooms, old.program
	} else {
		p.parseRules(who, rules)
	}
	if old != nil && bytes.Equal(old.rawIgnore, ignore) {
		p.ignored = old.ignored
		return p
	}
	p.ignored = view.ParseIgnored(ignore)
	return p
}

// parseRules takes out of the rules what concerns whole rooms. If what is left are the default rules, counts are
// subtractions; else events are looked at one by one. What cannot be read counts as the default rules.
func (p *prefs) parseRules(who id.User, content []byte) {
	if len(content) == 0 {
		return
	}
	set, err := pushrule.Parse(content, who)
	if err != nil {
		return
	}
	rest := set
	rest.Override, rest.Room = nil, nil
	p.rooms = make(map[id.Room]ruleLevel)
	for _, r := range set.Override {
		silent := r.Enabled && !r.Notifies()
		switch {
		case r.ID == ".m.rule.master":
			p.off = silent
			if !silent {
				rest.Override = append(rest.Override, r)
			}
		case silent && len(r.Conditions) == 1 && r.Conditions[0].Kind == "event_match" && r.Conditions[0].Key == "room_id" && r.Conditions[0].Pattern != nil:
			p.rooms[id.Room(*r.Conditions[0].Pattern)] = notifyNone
		default:
			rest.Override = append(rest.Override, r)
		}
	}
	for _, r := range set.Room {
		if r.Enabled && !r.Notifies() {
			p.rooms[id.Room(r.ID)] = max(p.rooms[id.Room(r.ID)], notifyMentions)
		} else {
			rest.Room = append(rest.Room, r)
		}
	}
	if pushrule.Compile(rest, who).Class() != pushrule.Compile(pushrule.Defaults(who), who).Class() {
		p.program = pushrule.Compile(set, who)
	}
}

// mutedAt returns the time in which everything was muted when an entry was written at a position of a partition, or nil.
func (p *prefs) mutedAt(part uint32, pos int64) *userdb.MutedTime {
	for i, m := range p.muted {
		if pos > m.Since[part] && (m.Until == nil || pos <= m.Until[part]) {
			return &p.muted[i]
		}
	}
	return nil
}

// mutedIn says whether everything was muted for some of the positions in (after, upTo] of a partition.
func (p *prefs) mutedIn(part uint32, after, upTo int64) bool {
	return slices.ContainsFunc(p.muted, func(m userdb.MutedTime) bool {
		return m.Since[part] < upTo && (m.Until == nil || m.Until[part] > max(after, m.Since[part]))
	})
}

// tellsInvite says whether the user wants to know of invites by another one (client-server API, "Ignoring Users" and "Invite
// permission"; MSC4155).
func (p *prefs) tellsInvite(by id.User) bool {
	return !p.ignored.Has(by) && p.invites.Of(by) == invitefilter.Allow
}

func (p *prefs) level(room id.Room) ruleLevel {
	if p.off {
		return notifyNone
	}
	return p.rooms[room]
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
	content, err := pushrule.Defaults(p.who.User).ContentJSON()
	if err != nil {
		return err
	}
	a.accountData = append(a.accountData, basicEvent(pushRules, content))
	return nil
}
