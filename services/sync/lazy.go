package sync

import (
	"context"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

// lazyMembers is which members' events a device has been sent, so that they are not sent with each message
// (client-server API, section "Lazy-loading room members"). It is forgotten when a device repeats a token, as the answer
// that brought them may have been lost, and with the worker: then they are sent again, which is allowed.
type lazyMembers struct {
	sent  *simplelru.LRU[lazyKey, struct{}]
	since string
}

type lazyKey struct {
	part uint32
	nid  int64
}

// lazyLimit bounds what is remembered of one device.
const lazyLimit = 2000

// lazyOf returns what a device has been sent. It begins anew when the device begins anew.
func (u *user) lazyOf(p *poll) *lazyMembers {
	since := ""
	if p.since != nil {
		since = p.since.Encode(u.id)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.lazy[p.device]
	if l == nil || p.since == nil || (l.since == since && p.lazyFresh == nil) {
		sent, err := simplelru.NewLRU[lazyKey, struct{}](lazyLimit, nil)
		if err != nil {
			panic(err) // only for a size below one
		}
		l = &lazyMembers{sent: sent}
		u.lazy[p.device] = l
	}
	l.since = since
	p.lazyFresh = l
	return l
}

// lazyOfTimeline returns the member events of those who sent the timeline that the device does not have yet.
func (s *Service) lazyOfTimeline(ctx context.Context, p *poll, v *roomView, sid int64) ([]int64, error) {
	m, err := s.rooms.State(ctx, v.r.RoomPart, sid)
	if err != nil {
		return nil, err
	}
	senders := make(map[id.User]struct{}, 4)
	for _, e := range v.timeline {
		senders[e.Sender] = struct{}{}
	}
	return s.lazyNew(p, v.r.RoomPart, m, senders), nil
}

// lazyOfFull returns the member events that the state of a whole room needs: of those who sent the timeline, and the
// user's own, which must always be there.
func (s *Service) lazyOfFull(p *poll, v *roomView, m state.Map) ([]int64, error) {
	senders := map[id.User]struct{}{p.who.User: {}}
	for _, e := range v.timeline {
		senders[e.Sender] = struct{}{}
	}
	l := p.user.lazyOf(p)
	var nids []int64
	for user := range senders {
		if nid, ok := memberOf(m, user); ok {
			nids = append(nids, nid)
			p.user.mu.Lock()
			l.sent.Add(lazyKey{v.r.RoomPart, nid}, struct{}{})
			p.user.mu.Unlock()
		}
	}
	return nids, nil
}

func (s *Service) lazyNew(p *poll, part uint32, m state.Map, users map[id.User]struct{}) []int64 {
	l := p.user.lazyOf(p)
	p.user.mu.Lock()
	defer p.user.mu.Unlock()
	var nids []int64
	for user := range users {
		nid, ok := memberOf(m, user)
		if !ok {
			continue
		}
		key := lazyKey{part, nid}
		if !l.sent.Contains(key) || p.filter.Room.State.IncludeRedundantMembers {
			nids = append(nids, nid)
		}
		l.sent.Add(key, struct{}{})
	}
	return nids
}
