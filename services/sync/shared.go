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
	rooms *cache.Cache[id.User, map[roomdb.RoomKey]struct{}] // of local users who are not connected here
	pairs *cache.Cache[[2]id.User, bool]                     // a user here and one of another server
}

func newShared(s *Service) *shared {
	return &shared{
		s: s,
		rooms: cache.New(cache.Config[id.User, map[roomdb.RoomKey]struct{}]{
			Name: "presence_rooms", Budget: 16 << 20, MaxAge: 5 * time.Second,
			Weigh: func(u id.User, rooms map[roomdb.RoomKey]struct{}) int64 { return int64(len(u) + 40*len(rooms) + 100) },
		}),
		pairs: cache.New(cache.Config[[2]id.User, bool]{
			Name: "presence_pairs", Budget: 8 << 20, MaxAge: time.Minute,
			Weigh: func(u [2]id.User, _ bool) int64 { return int64(len(u[0]) + len(u[1]) + 80) },
		}),
	}
}

// with says of each of the others whether they are in a room with the user, or the user itself. Those whom nobody has
// asked about lately are looked up together.
func (sh *shared) with(ctx context.Context, u *user, others []presenceNow) ([]bool, error) {
	yes := make([]bool, len(others))
	unknown := make(map[id.User]int)
	var local, remote []id.User
	for i, o := range others {
		other := id.User(o.state.UserId)
		known := true
		switch {
		case other == u.id:
			yes[i] = true
		case !sh.s.servers.IsLocal(other.Server()):
			if yes[i], known = sh.pairs.Get([2]id.User{u.id, other}); !known {
				remote = append(remote, other)
			}
		default:
			if yes[i], known = sh.local(u, other); !known {
				local = append(local, other)
			}
		}
		if !known {
			unknown[other] = i
		}
	}
	if len(local) > 0 {
		found, err := sh.look(ctx, local)
		if err != nil {
			return nil, err
		}
		for other, rooms := range found {
			yes[unknown[other]] = u.inAny(rooms)
		}
	}
	shared, err := sh.s.shareRooms(ctx, u, remote)
	if err != nil {
		return nil, err
	}
	for other := range shared {
		// Only what is so is remembered: who meets somebody sees them at once.
		sh.pairs.Add([2]id.User{u.id, other}, true)
		yes[unknown[other]] = true
	}
	return yes, nil
}

// local compares with a user whose rooms are in memory.
func (sh *shared) local(u *user, other id.User) (shares, known bool) {
	if v := sh.s.users.connectedUser(other); v != nil {
		return u.sharesWith(v), true
	}
	rooms, ok := sh.rooms.Get(other)
	return ok && u.inAny(rooms), ok
}

func (sh *shared) look(ctx context.Context, users []id.User) (map[id.User]map[roomdb.RoomKey]struct{}, error) {
	joined, err := sh.s.userdb.JoinedRoomsOf(ctx, users)
	if err != nil {
		return nil, err
	}
	found := make(map[id.User]map[roomdb.RoomKey]struct{}, len(users))
	for _, who := range users {
		of := make(map[roomdb.RoomKey]struct{}, len(joined[who]))
		for _, r := range joined[who] {
			of[roomdb.RoomKey{Part: r.Part, NID: r.NID}] = struct{}{}
		}
		found[who] = of
		if len(of) > 0 {
			sh.rooms.Add(who, of)
		}
	}
	return found, nil
}
