package keys

import (
	"context"
	"math"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

// changedKeys collects whose keys a user must fetch anew, and who may have gone out of sight.
type changedKeys struct {
	mu      sync.Mutex
	changed map[id.User]bool
	left    map[id.User]bool // unless a room is still shared
}

func (k *changedKeys) add(set map[id.User]bool, users ...id.User) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, u := range users {
		if u.Compliant() { // others are not told outside of events (appendices, "Historical User IDs")
			set[u] = true
		}
	}
}

// keyChanges answers GET /keys/changes (client-server API, "Key management API").
func (c *Keys) keyChanges(w http.ResponseWriter, r *http.Request) error {
	ctx, user, q := r.Context(), core.Me(r).User, r.URL.Query()
	if q.Get("from") == "" {
		return merr.MissingParam("from")
	}
	from, err := token.ParseSync(q.Get("from"), user)
	if err != nil {
		return merr.InvalidParam("from is not a token of /sync")
	}
	to := token.Sync{UserSeq: math.MaxInt64}
	if text := q.Get("to"); text != "" {
		if to, err = token.ParseSync(text, user); err != nil {
			return merr.InvalidParam("to is not a token of /sync")
		}
	}
	k := &changedKeys{changed: make(map[id.User]bool), left: make(map[id.User]bool)}
	notices, err := c.Users.DeviceNotices(ctx, user, from.UserSeq, to.UserSeq)
	if err != nil {
		return err
	}
	k.add(k.changed, notices...)
	rooms, err := c.Users.Memberships(ctx, user)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(core.RoomsAtOnce)
	for _, m := range rooms {
		g.Go(func() error { return c.keyChangesIn(gctx, k, m, &from, &to) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	left, err := c.outOfSight(ctx, user, k)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string][]id.User{"changed": sorted(k.changed), "left": left})
}

// outOfSight returns those of the users who left whom no room is shared with any more.
func (c *Keys) outOfSight(ctx context.Context, user id.User, k *changedKeys) ([]id.User, error) {
	gone := sorted(k.left)
	shared, err := c.sharing.SharedWith(ctx, user, gone)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(gone, func(u id.User) bool { return u == user || shared[u] || k.changed[u] }), nil
}

func sorted(set map[id.User]bool) []id.User {
	users := make([]id.User, 0, len(set))
	for u := range set {
		users = append(users, u)
	}
	slices.Sort(users)
	return users
}

// keyChangesIn adds what happened in one room.
func (c *Keys) keyChangesIn(ctx context.Context, k *changedKeys, m userdb.Membership, from, to *token.Sync) error {
	joined := m.Membership == "join"
	if joined && m.JoinSeq > from.UserSeq { // all members came into sight
		k.add(k.changed, m.User)
		return c.allMembers(ctx, k, k.changed, m)
	}
	if !joined {
		if m.Seq <= from.UserSeq || m.Membership == "invite" || m.Membership == "knock" {
			return nil
		}
		if err := c.allMembers(ctx, k, k.left, m); err != nil {
			return err
		}
	}
	after, ok := from.At(m.RoomPart)
	if !ok {
		return nil
	}
	if !joined { // whoever came before the user left is out of sight by now
		return c.memberChanges(ctx, k, make(map[id.User]bool), m, after, m.Pos)
	}
	upTo, ok := to.At(m.RoomPart)
	if !ok {
		upTo = math.MaxInt64
	}
	users, err := c.Rooms.DeviceChanges(ctx, m.RoomPart, m.RoomNID, after, upTo)
	if err != nil {
		return err
	}
	k.add(k.changed, users...)
	return c.memberChanges(ctx, k, k.changed, m, after, upTo)
}

// allMembers adds all who are, or were when the user left, joined to a room.
func (c *Keys) allMembers(ctx context.Context, k *changedKeys, set map[id.User]bool, m userdb.Membership) error {
	sid, err := c.visibleState(ctx, m)
	if err != nil || sid == 0 {
		return err
	}
	st, err := c.Rooms.State(ctx, m.RoomPart, sid)
	if err != nil {
		return err
	}
	if !roomdb.ListsDevices(st, st.Len()) {
		return nil
	}
	return c.Rooms.EachJoined(ctx, roomdb.RoomKey{Part: m.RoomPart, NID: m.RoomNID}, st.Type("m.room.member"), func(users []id.User) error {
		k.add(set, users...)
		return nil
	})
}

// visibleState returns the present state of a room that the user is in, the one before the leaving of any other; 0 for
// a room that we never were in.
func (c *Keys) visibleState(ctx context.Context, m userdb.Membership) (int64, error) {
	if m.Membership == "join" {
		room, err := c.Rooms.Room(ctx, m.Room)
		if err != nil {
			return 0, err
		}
		return room.SID, nil
	}
	found, err := c.Rooms.Events(ctx, m.RoomPart, []int64{m.EventNID})
	if ev := found[m.EventNID]; err == nil && ev != nil {
		return ev.SID, nil
	}
	return 0, err
}

// memberChanges adds those who joined, to came, and those who left a room between two positions.
func (c *Keys) memberChanges(ctx context.Context, k *changedKeys, came map[id.User]bool, m userdb.Membership, after, upTo int64) error {
	span, err := c.Rooms.Span(ctx, m.RoomPart, m.RoomNID, after, upTo)
	before, now := span.Before, span.After
	if err != nil || before == now {
		return err
	}
	states, err := c.Rooms.States(ctx, []state.Ref{{Part: m.RoomPart, SID: before}, {Part: m.RoomPart, SID: now}})
	if err != nil {
		return err
	}
	room := roomdb.RoomKey{Part: m.RoomPart, NID: m.RoomNID}
	var changes []state.Change
	var nids []int64
	end := states[state.Ref{Part: m.RoomPart, SID: now}]
	for ch := range state.Diff(states[state.Ref{Part: m.RoomPart, SID: before}], end) {
		if ch.Key.Type == core.TypeMember {
			changes = append(changes, ch)
			nids = append(nids, ch.Old, ch.New)
		}
	}
	if !roomdb.ListsDevices(end, len(changes)) {
		return nil
	}
	is, err := c.Rooms.Memberships(ctx, room, slices.DeleteFunc(nids, func(n int64) bool { return n == 0 }))
	if err != nil {
		return err
	}
	var both []roomdb.Tenure
	for _, ch := range changes {
		if is[ch.Old] == "join" && is[ch.New] == "join" {
			both = append(both, roomdb.Tenure{From: ch.Old, To: ch.New})
		}
	}
	stayed, err := c.Rooms.Stayed(ctx, room, both)
	if err != nil {
		return err
	}
	for _, ch := range changes {
		switch {
		case is[ch.New] == "join" && !stayed[roomdb.Tenure{From: ch.Old, To: ch.New}]: // came, or came back
			k.add(came, id.User(ch.Key.StateKey))
		case is[ch.New] != "join" && is[ch.Old] == "join":
			k.add(k.left, id.User(ch.Key.StateKey))
		}
	}
	return nil
}
