package sync

import (
	"bytes"
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/invitefilter"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/notify"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// The types of the account data that change what a user is told.
const (
	pushRules = notify.PushRules
	ignored   = view.IgnoredUsers
)

// prefs is what of a user's account data concerns answers. It is never changed, only replaced.
type prefs struct {
	notify.Rules
	seq     int64        // position of the user's stream up to which it counts
	ignored view.Ignored // those of Rules
	invites invitefilter.Rules
	muted   notify.Muted // when the rules muted everything; what came then does not count
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
	rules, ignore := old.Raw()
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
	p := newPrefs(u.id, old, upTo, rules, ignore)
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
	var known *notify.Rules
	p := &prefs{seq: seq}
	if old != nil {
		known = &old.Rules
		if same, _ := old.Raw(); bytes.Equal(same, rules) {
			p.muted = old.muted
		}
	}
	p.Rules = *notify.NewRules(who, known, rules, ignore)
	p.ignored = p.Ignored
	return p
}

// tellsInvite says whether the user wants to know of invites by another one (client-server API, "Ignoring Users" and "Invite
// permission"; MSC4155).
func (p *prefs) tellsInvite(by id.User) bool {
	return !p.ignored.Has(by) && p.invites.Of(by) == invitefilter.Allow
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
