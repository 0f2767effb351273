package partition

import (
	"slices"
	"strings"
	"time"
)

// view is what is known of the members. All times are those that the NATS server gave to the
// entries: one clock for all.
type view struct {
	ttl     time.Duration
	grace   time.Duration // a longer silence of our own heartbeats is NATS's fault, not the members'
	me      Member
	echo    time.Time // our own last heartbeat, as it came back
	floor   time.Time // nobody is judged by what came before
	members map[string]*sighting
}

type sighting struct {
	m       Member
	at      time.Time
	suspect bool
}

func newView(ttl, grace time.Duration) view {
	return view{ttl: ttl, grace: grace, members: make(map[string]*sighting)}
}

// self sets our own entry: we know what we are without NATS.
func (v *view) self(m Member) { v.me = m }

// hear takes a heartbeat and reports whether the set of members changed. own marks the echo of our
// own, which is the clock by which the others are judged.
func (v *view) hear(m Member, at time.Time, own bool) bool {
	if own {
		if !v.echo.IsZero() && at.Sub(v.echo) > v.grace {
			v.floor = at // NATS was away: everybody gets a full TTL to come back
		}
		v.echo = at
		return v.expire()
	}
	if m.ID == v.me.ID {
		return false // another process with our id; the fence keeps us apart
	}
	old := v.members[m.ID]
	if old != nil && !at.After(old.at) && old.suspect {
		return false // nothing newer than what made us suspicious
	}
	v.members[m.ID] = &sighting{m: m, at: at}
	return old == nil || old.suspect || !same(old.m, m)
}

// expire drops members that were silent for longer than TTL while our own heartbeats came through.
func (v *view) expire() bool {
	changed := false
	for id, s := range v.members {
		last := s.at
		if last.Before(v.floor) {
			last = v.floor
		}
		if v.echo.Sub(last) > v.ttl {
			changed = changed || !s.suspect
			delete(v.members, id)
		}
	}
	return changed
}

func (v *view) remove(id string, at time.Time) bool {
	s := v.members[id]
	if s == nil || at.Before(s.at) {
		return false
	}
	delete(v.members, id)
	return !s.suspect
}

func (v *view) suspect(id string) bool {
	s := v.members[id]
	if s == nil || s.suspect {
		return false
	}
	s.suspect = true
	return true
}

func (v *view) alive() []Member {
	out := make([]Member, 0, len(v.members)+1)
	out = append(out, v.me)
	for _, s := range v.members {
		if !s.suspect {
			out = append(out, s.m)
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (v *view) hasAddr(addr string) bool {
	if v.me.Addr == addr {
		return true
	}
	for _, s := range v.members {
		if s.m.Addr == addr && !s.suspect {
			return true
		}
	}
	return false
}

func same(a, b Member) bool {
	return a.Addr == b.Addr && a.State == b.State && a.Started == b.Started && slices.Equal(a.Roles, b.Roles)
}
