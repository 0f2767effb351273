package room

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/state"
)

// homeServer is a local server name that has a member in the room: requests of the room are made in its name.
func (r *room) homeServer(ctx context.Context) (id.Server, error) {
	if r.home != "" {
		return r.home, nil
	}
	user, err := r.s.localMember(ctx, r.p, r.head.state, func(id.User) bool { return true })
	if err != nil {
		return "", err
	}
	if user == "" {
		return "", merr.NotFound("This server is not in the room")
	}
	r.home = user.Server()
	return r.home, nil
}

// membersAtOnce is how many memberships are looked at together.
const membersAtOnce = 200

// localMember finds a local user who is joined in a state and of whom may says yes; "" if there is none.
func (s *Service) localMember(ctx context.Context, p *lease, m state.Map, may func(id.User) bool) (id.User, error) {
	var nids []int64
	look := func() (id.User, error) {
		members, err := s.events(ctx, p, nids)
		nids = nids[:0]
		for _, e := range members {
			if e.Membership() == "join" {
				return id.User(*e.StateKey), nil
			}
		}
		return "", err
	}
	for key, nid := range m.Type(typeMember) {
		if user := id.User(key.StateKey); !s.localUser(user) || !may(user) {
			continue
		}
		if nids = append(nids, nid); len(nids) < membersAtOnce {
			continue
		}
		if user, err := look(); err != nil || user != "" {
			return user, err
		}
	}
	return look()
}
