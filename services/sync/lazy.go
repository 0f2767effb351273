package sync

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

// lazyMembers is which members' events a device has been sent, so that they are not sent with each message
// (client-server API, section "Lazy-loading room members"). What an answer brought counts once the device comes back
// with another token; if it repeats the same one, the answer was lost. The worker's memory is no more than that of its
// own answers: what it has forgotten is sent again, which is allowed.
type lazyMembers struct {
	sent    lazySet
	since   string    // the token whose answer brought pending
	pending []lazyKey // sent, but not known to have arrived
}

// maxReaders bounds the devices of a user, and their connections, of which it is remembered what they were sent.
const maxReaders = 100

// lazyOf returns what a device has been sent. It begins anew when the device begins anew. The user is locked.
func (u *user) lazyOf(p *asker) *lazyMembers {
	reader := string(p.device) + p.conn
	l := u.lazy[reader]
	if p.lazyKnown && l != nil {
		return l
	}
	p.lazyKnown = true
	if len(u.lazy) > maxReaders {
		clear(u.lazy)
	}
	if l == nil || p.since == nil {
		l = new(lazyMembers)
		u.lazy[reader] = l
	}
	if l.since == p.sinceText {
		l.sent.remove(l.pending)
	}
	l.since, l.pending = p.sinceText, nil
	return l
}

// lazyOfTimeline returns the member events of those who sent the timeline or name the room that the device does not have
// yet.
func (s *Service) lazyOfTimeline(ctx context.Context, p *poll, v *roomView, sid int64) ([]int64, error) {
	m, err := s.rooms.State(ctx, v.r.RoomPart, sid)
	if err != nil {
		return nil, err
	}
	return p.user.lazyNew(&p.asker, v.r.RoomPart, m, v.lazyUsers(), p.filter.Room.State.IncludeRedundantMembers), nil
}

// lazyOfFull returns the member events that the state of a whole room needs: of those who sent the timeline, who name
// the room, and the user's own, which must always be there.
func (s *Service) lazyOfFull(p *poll, v *roomView, m state.Map) []int64 {
	users := v.lazyUsers()
	users[p.who.User] = struct{}{}
	return p.user.lazyNew(&p.asker, v.r.RoomPart, m, users, true)
}

// lazyUsers are those whose member events an answer needs.
func (v *roomView) lazyUsers() map[id.User]struct{} {
	users := make(map[id.User]struct{}, 4)
	for _, e := range v.timeline {
		users[e.Sender] = struct{}{}
	}
	if v.summary != nil {
		for _, u := range v.summary.heroes {
			users[u] = struct{}{}
		}
	}
	return users
}

// lazyNew returns those of the users' member events that the device does not have, or all of them.
func (u *user) lazyNew(p *asker, part uint32, m state.Map, users map[id.User]struct{}, all bool) []int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.lazyOf(p)
	var nids []int64
	var keys []lazyKey
	for who := range users {
		nid, ok := memberOf(m, who)
		if !ok {
			continue
		}
		key := keyOf(part, nid)
		if !l.sent.has(key) {
			keys = append(keys, key)
		} else if !all {
			continue
		}
		nids = append(nids, nid)
	}
	l.pending = append(l.pending, l.sent.add(keys)...)
	return nids
}

// lazySent notes that an answer brings the member events of these keys.
func (u *user) lazySent(p *asker, keys []lazyKey) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.lazyOf(p)
	l.pending = append(l.pending, l.sent.add(keys)...)
}
