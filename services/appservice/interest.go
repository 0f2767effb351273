package appservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hanse/pkg/appservice"
	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// aliasesAge is how long a worker relies on the aliases of a room that it knows: a hint of a new one may have been lost.
const aliasesAge = 10 * time.Minute

// interest knows which services want the events of which rooms. A room is read when its first event comes, and kept up to date by the
// log: an event costs nothing for each member of its room.
type interest struct {
	rooms   *roomdb.DB
	aliases func(context.Context, id.Room) ([]id.Alias, error)
	names   []id.Server // those that the cluster serves
	most    int         // rooms that are remembered of a log partition
	match   atomic.Pointer[appservice.Matcher]
	parts   []partInterest
	nows    *cache.Cache[id.Room, now]
}

// partInterest is the rooms of a log partition. Only who reads that partition adds and changes rooms; others look, and forget.
type partInterest struct {
	mu    sync.Mutex
	rooms map[int64]*room
	byID  map[id.Room]*room
}

// room is who wants the events of a room. The lists are replaced when they change.
type room struct {
	id  id.Room
	nid int64
	m   *appservice.Matcher // what the services are indexes of
	// fixed are the services with a namespace that the room or one of its aliases is in; aliasesAt says when those were read.
	fixed     []int
	aliasesAt time.Time
	// members has a joined user of each service with any.
	members []member
	// names are the cluster's names with joined members, in clusters with several; nil: to be read.
	names map[id.Server]bool
	// all are the services of both.
	all atomic.Pointer[[]int]
}

type member struct {
	service int
	user    id.User
}

// nowKept is for how long it is remembered who wants what is in no event of a room: by its state as it was then.
const nowKept = 10 * time.Second

// now is who wants what comes from a room at present.
type now struct {
	m   *appservice.Matcher
	all []int
}

// beside says whether a service of a matcher wants anything but events.
func beside(m *appservice.Matcher) bool {
	return slices.ContainsFunc(m.Services(), func(s *appservice.Service) bool { return s.ReceiveEphemeral || s.Encryption })
}

// present returns the services that want what comes from a room at present. What is found is not used for events: it may be ahead of
// them.
func (in *interest) present(ctx context.Context, m *appservice.Matcher, name id.Room) ([]int, error) {
	if !beside(m) {
		return nil, nil
	}
	if all, of, ok := in.known(name); ok && of == m {
		return all, nil
	}
	if n, ok := in.nows.Get(name); ok && n.m == m {
		return n.all, nil
	}
	row, err := in.rooms.Room(ctx, name)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := in.load(ctx, m, row.Key(), name, row.SID)
	if err != nil {
		return nil, err
	}
	all := *r.all.Load()
	in.nows.Add(name, now{m, all})
	return all, nil
}

func newInterest(rooms *roomdb.DB, aliases func(context.Context, id.Room) ([]id.Alias, error), names []id.Server, parts uint32, most int) *interest {
	in := &interest{rooms: rooms, aliases: aliases, names: names, most: max(1, most/int(parts)), parts: make([]partInterest, parts),
		nows: cache.New(cache.Config[id.Room, now]{Name: "appservice_room", Budget: 8 << 20, MaxAge: nowKept,
			Weigh: func(name id.Room, n now) int64 { return int64(len(name)+8*len(n.all)) + 100 }})}
	in.match.Store(appservice.NewMatcher(nil))
	for q := range in.parts {
		in.forgetPart(uint32(q))
	}
	return in
}

// forgetPart forgets the rooms of a log partition.
func (in *interest) forgetPart(q uint32) {
	p := &in.parts[q]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rooms, p.byID = make(map[int64]*room), make(map[id.Room]*room)
}

// forgetRoom forgets a room: what is known of it is not kept up to date by the log.
func (in *interest) forgetRoom(name id.Room) {
	p := &in.parts[partition.Of(string(name))]
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.byID[name]; r != nil {
		delete(p.rooms, r.nid)
		delete(p.byID, name)
	}
}

// known returns the services that want the events of a room, if it was read.
func (in *interest) known(name id.Room) ([]int, *appservice.Matcher, bool) {
	p := &in.parts[partition.Of(string(name))]
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.byID[name]
	if r == nil || r.m != in.match.Load() {
		return nil, nil, false
	}
	return *r.all.Load(), r.m, true
}

// of returns the services that want an entry of the log, and follows the changes of members that it brings. The services are indexes
// of those of the matcher, which must be that of interest at the time.
func (in *interest) of(ctx context.Context, m *appservice.Matcher, q uint32, e *logv1.Entry) ([]int, error) {
	if len(m.Services()) == 0 {
		return nil, nil
	}
	key := roomdb.RoomKey{Part: q, NID: e.RoomNid}
	ev := e.GetEvent()
	r := in.get(m, key)
	if r == nil {
		if ev == nil {
			return in.present(ctx, m, id.Room(e.RoomId))
		}
		var err error
		if r, err = in.load(ctx, m, key, id.Room(e.RoomId), ev.CurrentBefore); err != nil {
			return nil, err
		}
		in.put(key, r)
	}
	if filled := e.GetFilled(); filled != nil {
		in.drop(key) // its members were not known until now
		return nil, nil
	}
	if ev == nil {
		return *r.all.Load(), nil
	}
	if err := in.renew(ctx, r); err != nil {
		return nil, err
	}
	before := *r.all.Load()
	if err := in.follow(ctx, r, key, ev); err != nil {
		in.drop(key)
		return nil, err
	}
	out := before
	if after := *r.all.Load(); !slices.Equal(before, after) {
		out = union(before, after)
	}
	named, err := in.named(ctx, r, key, ev)
	if err != nil {
		return nil, err
	}
	return union(out, named), nil
}

// get returns a room that is known.
func (in *interest) get(m *appservice.Matcher, key roomdb.RoomKey) *room {
	p := &in.parts[key.Part]
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.rooms[key.NID]; r != nil && r.m == m {
		return r
	}
	return nil
}

func (in *interest) put(key roomdb.RoomKey, r *room) {
	p := &in.parts[key.Part]
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rooms) >= in.most {
		p.rooms, p.byID = make(map[int64]*room), make(map[id.Room]*room)
	}
	p.rooms[key.NID], p.byID[r.id] = r, r
}

func (in *interest) drop(key roomdb.RoomKey) {
	p := &in.parts[key.Part]
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.rooms[key.NID]; r != nil {
		delete(p.rooms, key.NID)
		delete(p.byID, r.id)
	}
}

// named returns the services in whose namespaces the sender of an event is, or the user whose membership it changes.
func (in *interest) named(ctx context.Context, r *room, key roomdb.RoomKey, ev *logv1.Event) ([]int, error) {
	found, err := in.namedBy(ctx, r, key, id.User(ev.Sender))
	if err != nil || ev.Type != "m.room.member" || ev.StateKey == nil || *ev.StateKey == ev.Sender {
		return found, err
	}
	more, err := in.namedBy(ctx, r, key, id.User(*ev.StateKey))
	return union(found, more), err
}

func (in *interest) namedBy(ctx context.Context, r *room, key roomdb.RoomKey, user id.User) ([]int, error) {
	found := r.m.User(user)
	if len(found) == 0 {
		return nil, nil
	}
	return in.within(ctx, r, key, found, user.Server())
}

// within returns those of some services that may see a room at all. With several names a cluster is several servers: a service of one
// of them sees a room only while a member of its own name is there, or if the event is of a user of that name.
func (in *interest) within(ctx context.Context, r *room, key roomdb.RoomKey, services []int, of id.Server) ([]int, error) {
	if len(in.names) < 2 {
		return services, nil
	}
	var out []int
	for _, i := range services {
		name := r.m.Services()[i].Server
		if name != of {
			if err := in.readNames(ctx, r, key); err != nil {
				return nil, err
			}
			if !r.names[name] {
				continue
			}
		}
		out = append(out, i)
	}
	return out, nil
}

func (in *interest) readNames(ctx context.Context, r *room, key roomdb.RoomKey) error {
	if r.names != nil {
		return nil
	}
	servers, err := in.rooms.Servers(ctx, key.Part, key.NID)
	if err != nil {
		return err
	}
	r.names = make(map[id.Server]bool)
	for _, name := range servers {
		if slices.Contains(in.names, name) {
			r.names[name] = true
		}
	}
	return nil
}

// load reads who wants the events of a room, as of a state of it.
func (in *interest) load(ctx context.Context, m *appservice.Matcher, key roomdb.RoomKey, name id.Room, sid int64) (*room, error) {
	r := &room{id: name, nid: key.NID, m: m}
	if err := in.readFixed(ctx, r); err != nil {
		return nil, err
	}
	st, err := in.rooms.State(ctx, key.Part, sid)
	if err != nil {
		return nil, err
	}
	candidates := make(map[int][]candidate)
	for k, nid := range st.Type("m.room.member") {
		user := id.User(k.StateKey)
		if !slices.Contains(in.names, user.Server()) {
			continue
		}
		for _, i := range ownOf(m, user) {
			candidates[i] = append(candidates[i], candidate{nid, user})
		}
	}
	if r.members, err = in.anyJoined(ctx, key, candidates); err != nil {
		return nil, err
	}
	return r, in.sum(ctx, r, key)
}

// ownOf returns the services to which a user of their own name belongs.
func ownOf(m *appservice.Matcher, user id.User) []int {
	found := m.User(user)
	for n, i := range found {
		if m.Services()[i].Server != user.Server() { // rare
			out := slices.Clone(found[:n])
			for _, j := range found[n:] {
				if m.Services()[j].Server == user.Server() {
					out = append(out, j)
				}
			}
			return out
		}
	}
	return found
}

// candidate is a user with a member event.
type candidate struct {
	nid  int64
	user id.User
}

// anyJoined finds a joined user for each service that has one among its candidates.
func (in *interest) anyJoined(ctx context.Context, key roomdb.RoomKey, candidates map[int][]candidate) ([]member, error) {
	var members []member
	for n := 4; len(candidates) > 0; n = min(2*n, 1000) {
		var nids []int64
		for _, c := range candidates {
			for _, one := range c[:min(n, len(c))] {
				nids = append(nids, one.nid)
			}
		}
		is, err := in.rooms.Memberships(ctx, key, nids)
		if err != nil {
			return nil, fmt.Errorf("read members: %w", err)
		}
		for i, c := range candidates {
			some := c[:min(n, len(c))]
			at := slices.IndexFunc(some, func(one candidate) bool { return is[one.nid] == "join" })
			switch {
			case at >= 0:
				members = append(members, member{i, some[at].user})
				delete(candidates, i)
			case len(some) == len(c):
				delete(candidates, i)
			default:
				candidates[i] = c[len(some):]
			}
		}
	}
	return members, nil
}

// readFixed reads for whom the room and its aliases are in a namespace.
func (in *interest) readFixed(ctx context.Context, r *room) error {
	r.fixed, r.aliasesAt = r.m.Room(r.id), time.Now()
	if !r.m.HasAliases() {
		return nil
	}
	aliases, err := in.aliases(ctx, r.id)
	if err != nil {
		return err
	}
	for _, a := range aliases {
		r.fixed = union(r.fixed, r.m.Alias(a))
	}
	return nil
}

// renew reads the aliases of a room again after a while.
func (in *interest) renew(ctx context.Context, r *room) error {
	if !r.m.HasAliases() || time.Since(r.aliasesAt) < aliasesAge {
		return nil
	}
	return in.readFixed(ctx, r)
}

// sum makes the list of all services that want the events of a room.
func (in *interest) sum(ctx context.Context, r *room, key roomdb.RoomKey) error {
	fixed, err := in.within(ctx, r, key, r.fixed, "")
	if err != nil {
		return err
	}
	all := slices.Clone(fixed)
	for _, one := range r.members {
		all = append(all, one.service)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	r.all.Store(&all)
	return nil
}

// follow brings a room up to the state after an event.
func (in *interest) follow(ctx context.Context, r *room, key roomdb.RoomKey, ev *logv1.Event) error {
	changed := false
	move := func(user id.User, membership, before string) error {
		if (membership == "join") == (before == "join") || !slices.Contains(in.names, user.Server()) {
			return nil
		}
		changed = changed || r.names != nil
		r.names = nil
		for _, i := range ownOf(r.m, user) {
			at := slices.IndexFunc(r.members, func(one member) bool { return one.service == i })
			switch {
			case membership == "join" && at < 0:
				r.members = append(r.members, member{i, user})
			case membership != "join" && at >= 0 && r.members[at].user == user:
				other, err := in.another(ctx, r.m, key, ev.CurrentAfter, i)
				if err != nil {
					return err
				}
				r.members = append(slices.Delete(r.members, at, at+1), other...)
			default:
				continue
			}
			changed = true
		}
		return nil
	}
	if ev.Membership != "" && ev.StateKey != nil && !ev.Overruled {
		if err := move(id.User(*ev.StateKey), ev.Membership, ev.PrevMembership); err != nil {
			return err
		}
	}
	for _, moved := range ev.Moved {
		if err := move(id.User(moved.UserId), moved.Membership, moved.PrevMembership); err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	return in.sum(ctx, r, key)
}

// another finds a joined user of a service in a state: its sender, which is mostly there, or any other.
func (in *interest) another(ctx context.Context, m *appservice.Matcher, key roomdb.RoomKey, sid int64, service int) ([]member, error) {
	st, err := in.rooms.State(ctx, key.Part, sid)
	if err != nil {
		return nil, err
	}
	sender := m.Services()[service].Sender
	if nid, ok := st.Get(state.Key{Type: "m.room.member", StateKey: string(sender)}); ok {
		found, err := in.anyJoined(ctx, key, map[int][]candidate{service: {{nid, sender}}})
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	var all []candidate
	for k, nid := range st.Type("m.room.member") {
		if user := id.User(k.StateKey); slices.Contains(ownOf(m, user), service) {
			all = append(all, candidate{nid, user})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return int(b.nid - a.nid) }) // who came last is the likeliest to be there
	return in.anyJoined(ctx, key, map[int][]candidate{service: all})
}

// union merges two ascending lists. The result may be one of them.
func union(a, b []int) []int {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
