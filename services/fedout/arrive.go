package fedout

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/outgoing"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// A server must be told of the devices of a local user who joins a room that it is in, unless it is told of them already
// (server-server API, "Device Management"). The join in the log is what causes it, so it is not lost: a destination has not
// got past the join before it was told. Nothing of it is stored. When we get to know the members of a room that was joined
// without them, there may be servers among theirs that nobody knew of: all of ours in the room are told of then.

// arrival is a local user who joined a room.
type arrival struct {
	user id.User
	room roomKey
}

// planFilled offers the entry by which the members of a room became known to all servers in it.
func (f *sender) planFilled(ctx context.Context, key roomKey, e *logv1.Entry) (offer, error) {
	rs, err := f.rooms.at(ctx, key, e.Pos)
	if err != nil {
		return offer{}, err
	}
	origin := rs.ours
	if origin == "" {
		return offer{}, nil // no local user is there any more
	}
	return offer{to: rs.remote, item: &item{logPart: key.part, pos: e.Pos, entry: e, origin: origin, many: true, size: 300}}, nil
}

// arrivals are the local users whom an item makes known to servers, found out once for all destinations.
type arrivals struct {
	mu   sync.Mutex
	done bool
	// tell is who must be told of a user: servers in the room that are in no other room that the user joined earlier.
	tell map[id.User]map[id.Server]struct{}
}

// arrived returns whose devices the destination must be told of because of a batch.
func (d *dest) arrived(ctx context.Context, batch []*item) ([]id.User, error) {
	users := make(map[id.User]struct{})
	for _, it := range batch {
		ev := it.event()
		if it.entry.GetFilled() == nil && (ev == nil || !outgoing.BringsLocalUser(ev, d.f.isLocal)) {
			continue
		}
		tell, err := d.f.strangers(ctx, it)
		if err != nil {
			return nil, err
		}
		for user, servers := range tell {
			if _, ok := servers[d.server]; ok {
				users[user] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(users)), nil
}

// strangers finds out whom an item makes known, and to which servers.
func (f *sender) strangers(ctx context.Context, it *item) (map[id.User]map[id.Server]struct{}, error) {
	a, key := &it.arrivals, roomKey{it.logPart, it.entry.RoomNid}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return a.tell, nil
	}
	servers, err := f.present(ctx, key)
	if err != nil {
		return nil, err
	}
	names := make([]id.Server, len(servers))
	for i, t := range servers {
		names[i] = t.server
	}
	users := []id.User{}
	if ev := it.event(); ev != nil {
		users = append(users, id.User(*ev.StateKey))
	} else if users, err = f.localJoined(ctx, key, math.MaxInt); err != nil {
		return nil, err
	}
	tell := make(map[id.User]map[id.Server]struct{}, len(users))
	for _, user := range users {
		if tell[user], err = f.strangersTo(ctx, arrival{user, key}, names); err != nil {
			return nil, err
		}
	}
	a.tell, a.done = tell, true
	return tell, nil
}

// strangersTo returns those of some servers that are in none of the rooms that the user had joined earlier.
func (f *sender) strangersTo(ctx context.Context, a arrival, servers []id.Server) (map[id.Server]struct{}, error) {
	rooms, err := f.s.users.RoomsJoinedBefore(ctx, a.user, a.room.part, a.room.nid)
	if err != nil {
		return nil, fmt.Errorf("read rooms of %s: %w", a.user, err)
	}
	keys := make([]roomdb.RoomKey, len(rooms))
	for i, r := range rooms {
		keys[i] = roomdb.RoomKey{Part: r.Part, NID: r.NID}
	}
	met, err := f.s.db.ServersIn(ctx, keys, servers)
	if err != nil {
		return nil, err
	}
	out := make(map[id.Server]struct{})
	for _, s := range servers {
		if _, ok := met[s]; !ok {
			out[s] = struct{}{}
		}
	}
	return out, nil
}

// localJoined returns the joined local users of a room; none if it has more than most members.
func (f *sender) localJoined(ctx context.Context, key roomKey, most int) (users []id.User, err error) {
	rows, err := f.s.db.RoomsByNID(ctx, []roomdb.RoomKey{{Part: key.part, NID: key.nid}})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.Joined > most {
			continue
		}
		m, err := f.s.db.State(ctx, row.Part, row.SID)
		if err != nil {
			return nil, err
		}
		err = f.s.db.EachJoined(ctx, row.Key(), f.localMembers(m), func(some []id.User) error {
			users = append(users, some...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return users, nil
}

// missedArrivals returns whose devices the destination must be told of because of what it missed between two positions.
func (d *dest) missedArrivals(ctx context.Context, part uint32, from, to int64, c *catchUp) ([]id.User, error) {
	all := c.arrivals
	c.arrivals = nil
	rows, err := d.f.s.shards.For(part).Query(ctx, sqlFilledRooms, int32(part), append(slices.Clone(c.rooms), c.skipped...), from, to)
	if err != nil {
		return nil, fmt.Errorf("read missed rooms: %w", err)
	}
	filled, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("read missed rooms: %w", err)
	}
	for _, nid := range filled {
		users, err := d.f.localJoined(ctx, roomKey{part, nid}, math.MaxInt)
		if err != nil {
			return nil, err
		}
		for _, user := range users {
			all = append(all, arrival{user, roomKey{part, nid}})
		}
	}
	users := make(map[id.User]struct{})
	for _, a := range all {
		to, err := d.f.strangersTo(ctx, a, []id.Server{d.server})
		if err != nil {
			return nil, err
		}
		if len(to) > 0 {
			users[a.user] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(users)), nil
}

// tellAtOnce bounds the users whose keys are read together.
const tellAtOnce = 50

// tellDevices tells the destination of all devices of local users.
func (d *dest) tellDevices(ctx context.Context, users []id.User) error {
	for some := range slices.Chunk(users, tellAtOnce) {
		byOrigin := make(map[id.Server]*transaction)
		if err := d.listDevices(ctx, some, byOrigin); err != nil {
			return own(err)
		}
		for _, t := range byOrigin {
			if err := d.deliver(t); err != nil {
				return err
			}
		}
	}
	return nil
}

// listDevices makes EDUs that say of every device that it is as it was after the last change of the list, which follows
// itself: a receiver whose list is of that change has nothing to do, any other fetches the list.
func (d *dest) listDevices(ctx context.Context, users []id.User, into map[id.Server]*transaction) error {
	streams := make(map[id.User]int64, len(users))
	for _, user := range users { // first, so that the devices are not older
		var err error
		if streams[user], err = d.f.s.users.DeviceListStream(ctx, user); err != nil {
			return err
		}
	}
	keys, err := d.f.s.users.KeysOf(ctx, users, "")
	if err != nil {
		return err
	}
	for _, user := range users {
		k := keys[user]
		if k == nil {
			continue
		}
		t := into[user.Server()]
		if t == nil {
			t = &transaction{origin: user.Server()}
			into[t.origin] = t
		}
		for _, device := range slices.Sorted(maps.Keys(k.Devices)) {
			u := deviceUpdate{User: user, Device: device, Name: k.Names[device], Stream: streams[user], Prev: []int64{streams[user]}, Keys: k.Devices[device]}
			if err := t.addEDU(eduDevices, u); err != nil {
				return err
			}
		}
		if err := addSigningKeys(t, user, k); err != nil {
			return err
		}
	}
	return nil
}
