package sync

import (
	"context"
	"time"

	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// shared answers who shares a room with whom, for presence: not exact to the second.
type shared struct {
	s     *Service
	rooms *cache.Cache[id.User, map[roomdb.RoomKey]struct{}] // of local users
	pairs *cache.Cache[[2]id.User, bool]                     // a user here and one of another server
}

func newShared(s *Service) *shared {
	return &shared{
		s: s,
		rooms: cache.New(cache.Config[id.User, map[roomdb.RoomKey]struct{}]{
			Name: "presence_rooms", Budget: 16 << 20, MaxAge: time.Minute,
			Weigh: func(u id.User, rooms map[roomdb.RoomKey]struct{}) int64 { return int64(len(u) + 40*len(rooms) + 100) },
		}),
		pairs: cache.New(cache.Config[[2]id.User, bool]{
			Name: "presence_pairs", Budget: 8 << 20, MaxAge: time.Minute,
			Weigh: func(u [2]id.User, _ bool) int64 { return int64(len(u[0]) + len(u[1]) + 80) },
		}),
	}
}

func (sh *shared) with(ctx context.Context, u *user, other id.User) (bool, error) {
	if !sh.s.servers.IsLocal(other.Server()) {
		pair := [2]id.User{u.id, other}
		if yes, ok := sh.pairs.Get(pair); ok {
			return yes, nil
		}
		yes, err := sh.s.sharesRoom(ctx, u, other)
		if err == nil {
			sh.pairs.Add(pair, yes)
		}
		return yes, err
	}
	of, ok := sh.rooms.Get(other)
	if !ok {
		rooms, err := sh.s.userdb.JoinedRooms(ctx, other)
		if err != nil {
			return false, err
		}
		of = make(map[roomdb.RoomKey]struct{}, len(rooms))
		for _, r := range rooms {
			of[roomdb.RoomKey{Part: r.Part, NID: r.NID}] = struct{}{}
		}
		sh.rooms.Add(other, of)
	}
	mine, _ := u.memberships()
	for _, r := range mine {
		if r.Membership != "join" {
			continue
		}
		if _, ok := of[roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}]; ok {
			return true, nil
		}
	}
	return false, nil
}
