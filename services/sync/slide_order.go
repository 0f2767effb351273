package sync

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
)

// order is a user's rooms by activity, the newest first (MSC4186, "Activity ordering"): those that the user has joined, is invited
// to or knocks at, and those that it was made to leave. It is sorted once, when the user comes to this worker. After that a request
// moves only the rooms in which something has happened. The list is never changed, only replaced.
type order struct {
	rooms   []*place
	version uint64 // raised when the order changes

	changes int             // user.changes up to which memberships count
	pos     []token.PartPos // up to where the logs count

	mu       *sync.RWMutex // of what an order shares with those that came before it
	at       map[id.Room]*place
	filtered map[string]filtered // rooms that pass a filter, by its text
}

// place is a room in an order. It is never changed, only replaced.
type place struct {
	r *userdb.Membership
	activity
}

func (p *place) key() roomdb.RoomKey {
	return roomdb.RoomKey{Part: p.r.RoomPart, NID: p.r.RoomNID}
}

// byActivity orders places, with the room's name as a tie-break.
func byActivity(a, b *place) int {
	return cmp.Or(cmp.Compare(b.active, a.active), cmp.Compare(a.r.Room, b.r.Room))
}

// listed says whether a membership belongs to the rooms that lists have. Who leaves knows it, and is told once (slide_rooms.go);
// who was banned, or declined by others, without having been a member has nothing to see.
func (r *placed) listed() bool {
	switch r.Membership {
	case "join", "invite", "knock":
		return true
	case "ban":
		return r.JoinPos > 0 && !r.Forgotten
	case "leave":
		return r.JoinPos > 0 && !r.Forgotten && r.Sender != r.User
	}
	return false
}

// placed is a membership in the eyes of an order.
type placed userdb.Membership

// orderOf returns the user's rooms as of a moment.
func (s *Service) orderOf(ctx context.Context, u *user, m *moment) (*order, error) {
	u.ordering.Lock()
	defer u.ordering.Unlock()
	u.mu.Lock()
	o := u.order
	u.mu.Unlock()
	var err error
	switch {
	case o == nil:
		o, err = s.newOrder(ctx, m)
	case m.changes < o.changes: // another request was faster, and knows more
		return o, nil
	default:
		o, err = s.moveOn(ctx, o, m)
	}
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	u.order = o
	u.mu.Unlock()
	return o, nil
}

func (s *Service) newOrder(ctx context.Context, m *moment) (*order, error) {
	o := &order{
		mu: new(sync.RWMutex), at: make(map[id.Room]*place, len(m.rooms)), version: 1, filtered: make(map[string]filtered),
		changes: m.changes, pos: m.pos,
	}
	var joined, others []*userdb.Membership
	for _, r := range m.rooms {
		switch {
		case !(*placed)(r).listed():
		case r.Membership == "join":
			joined = append(joined, r)
		default:
			others = append(others, r)
		}
	}
	stamps, err := s.stamps(ctx, joined)
	if err != nil {
		return nil, err
	}
	if err := s.stampOthers(ctx, others, stamps); err != nil {
		return nil, err
	}
	for r, a := range stamps {
		o.at[r.Room] = &place{r, a}
	}
	o.rooms = o.sorted()
	return o, nil
}

// stamps returns the activity of rooms that the user is in: from memory, or with one query for all of which nobody has asked yet.
func (s *Service) stamps(ctx context.Context, rooms []*userdb.Membership) (map[*userdb.Membership]activity, error) {
	out := make(map[*userdb.Membership]activity, len(rooms))
	var unknown []roomdb.RoomKey
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		a, known := s.tail.stamp(key)
		if out[r] = a; !known {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) == 0 {
		return out, nil
	}
	found, err := s.rooms.Activities(ctx, unknown)
	if err != nil {
		return nil, err
	}
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		if a, ok := found[key]; ok {
			out[r] = s.tail.setStamp(key, activity{a.Active, a.Bumped})
		}
	}
	return out, nil
}

// stampOthers adds when the user was invited, knocked or had to leave: the time that the event gives, if it is not in the future.
func (s *Service) stampOthers(ctx context.Context, rooms []*userdb.Membership, stamps map[*userdb.Membership]activity) error {
	want := make(map[uint32][]int64)
	for _, r := range rooms {
		if r.EventNID != 0 {
			want[r.RoomPart] = append(want[r.RoomPart], r.EventNID)
		}
	}
	events, err := s.rooms.EventsIn(ctx, want)
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	for _, r := range rooms {
		ts := gjson.GetBytes(r.Event, "origin_server_ts").Int()
		if e := events[r.RoomPart][r.EventNID]; e != nil {
			ts = e.OriginServerTS
		}
		ts = min(max(ts, 0), now)
		stamps[r] = activity{ts, ts}
	}
	return nil
}

// moveOn brings an order up to date.
func (s *Service) moveOn(ctx context.Context, o *order, m *moment) (*order, error) {
	next := *o
	next.pos, next.changes = m.pos, m.changes
	moved := make(map[id.Room]*place)
	if o.changes != m.changes {
		if err := s.moveMemberships(ctx, o, m, moved); err != nil {
			return nil, err
		}
	}
	changed, err := s.changedSince(ctx, &token.Sync{UserSeq: m.seq, Pos: o.pos}, m)
	if err != nil {
		return nil, err
	}
	var rooms []*userdb.Membership
	for _, r := range changed {
		if _, known := moved[r.Room]; !known && o.at[r.Room] != nil {
			rooms = append(rooms, r)
		}
	}
	stamps, err := s.stamps(ctx, rooms)
	if err != nil {
		return nil, err
	}
	for r, a := range stamps {
		if o.at[r.Room].activity != a {
			moved[r.Room] = &place{r, a}
		}
	}
	if len(moved) > 0 {
		next.move(moved)
	}
	return &next, nil
}

// moveMemberships notes the rooms whose membership has changed; a place of nil says that a room is none of the user's any more.
func (s *Service) moveMemberships(ctx context.Context, o *order, m *moment, moved map[id.Room]*place) error {
	var joined []*userdb.Membership
	now := time.Now().UnixMilli()
	for _, r := range m.rooms {
		old := o.at[r.Room]
		switch {
		case !(*placed)(r).listed():
			if old != nil {
				moved[r.Room] = nil
			}
		case old != nil && old.r == r:
		case r.Membership == "join":
			joined = append(joined, r)
		default:
			moved[r.Room] = &place{r, activity{now, now}}
		}
	}
	stamps, err := s.stamps(ctx, joined)
	for r, a := range stamps {
		moved[r.Room] = &place{r, a}
	}
	return err
}

// manyMoved is from how many rooms on an order is sorted anew.
const manyMoved = 64

// move puts places into the order, in the stead of those that their rooms had.
func (o *order) move(moved map[id.Room]*place) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rooms = slices.Clone(o.rooms)
	for room, p := range moved {
		old := o.at[room]
		if old != nil && len(moved) < manyMoved {
			if i, ok := slices.BinarySearchFunc(o.rooms, old, byActivity); ok {
				o.rooms = slices.Delete(o.rooms, i, i+1)
			}
		}
		if p == nil {
			delete(o.at, room)
			continue
		}
		if o.at[room] = p; len(moved) < manyMoved {
			i, _ := slices.BinarySearchFunc(o.rooms, p, byActivity)
			o.rooms = slices.Insert(o.rooms, i, p)
		}
	}
	if len(moved) >= manyMoved {
		o.rooms = o.sorted()
	}
	o.version++
	o.filtered = make(map[string]filtered)
}

func (o *order) sorted() []*place {
	rooms := make([]*place, 0, len(o.at))
	for _, p := range o.at {
		rooms = append(rooms, p)
	}
	slices.SortFunc(rooms, byActivity)
	return rooms
}

// of returns a room's place; nil if it is none of the user's.
func (o *order) of(room id.Room) *place {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.at[room]
}
