package push

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/matrix/id"
	"hanse/pkg/notify"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
)

const (
	// crowdAge is how long a worker relies on what it knows of a room: a hint of a new pusher may have been lost.
	crowdAge = 10 * time.Minute
	// maxWithout bounds the users who are known to have no pusher.
	maxWithout = 1 << 17
)

// audience knows which members of rooms have pushers, and what notifies them. A message costs nothing for other members.
type audience struct {
	shards  *pg.Shards
	rooms   *roomdb.DB
	isLocal func(id.Server) bool
	most    int // users in all crowds together

	mu      sync.Mutex
	crowds  map[roomdb.RoomKey]*crowd
	size    int // of all crowds
	users   map[id.User]*listener
	stale   map[id.User]struct{} // listeners whose account data may have changed
	without map[id.User]time.Time
	// pushers counts hints of new pushers: what was read before one may lack it. rules counts changes of listeners' rules.
	pushers, rules uint64
}

// listener is a user with a pusher.
type listener struct {
	rules *notify.Rules
	seq   int64 // position of the user's stream up to which the rules are known
	read  bool
}

// crowd is the members of a room who have pushers. It is replaced when they change.
type crowd struct {
	users  []id.User // in order
	loaded time.Time

	groups   *groups // nil: not made yet
	rulesGen uint64
	room     *notify.Room // nil: to be read
}

// groups sorts a crowd by what notifies its members.
type groups struct {
	// plain are those with the default rules, for whom the room is as loud as they say, and who ignore nobody.
	plain []id.User
	// level are the others with the default rules.
	level []*notify.Rules
	// own are those with rules of their own, by class.
	own map[[32]byte][]*notify.Rules
}

func newAudience(shards *pg.Shards, rooms *roomdb.DB, isLocal func(id.Server) bool, most int) *audience {
	a := &audience{shards: shards, rooms: rooms, isLocal: isLocal, most: most}
	a.forgetAll()
	return a
}

// forgetAll begins anew: after hints may have been lost, or if there are too many to remember.
func (a *audience) forgetAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.crowds, a.size = make(map[roomdb.RoomKey]*crowd), 0
	a.users, a.stale = make(map[id.User]*listener), make(map[id.User]struct{})
	a.without = make(map[id.User]time.Time)
	a.pushers++
	a.rules++
}

// forgetPart forgets the rooms of a partition.
func (a *audience) forgetPart(part uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, c := range a.crowds {
		if key.Part == part {
			a.size -= len(c.users)
			delete(a.crowds, key)
		}
	}
}

// forgetRoom forgets a room.
func (a *audience) forgetRoom(key roomdb.RoomKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.crowds[key]; c != nil {
		a.size -= len(c.users)
		delete(a.crowds, key)
	}
}

// touched notes that the account data of a user may have changed.
func (a *audience) touched(user id.User) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.users[user]; ok {
		a.stale[user] = struct{}{}
	}
}

// gained notes that a user has a new pusher. rooms are those that the user has joined.
func (a *audience) gained(user id.User, rooms []roomdb.RoomKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pushers++
	delete(a.without, user)
	for _, key := range rooms {
		if c := a.crowds[key]; c != nil {
			a.put(key, c.with(user))
		}
	}
}

// put replaces a crowd. a.mu is held.
func (a *audience) put(key roomdb.RoomKey, c *crowd) {
	if old := a.crowds[key]; old != nil {
		a.size -= len(old.users)
	}
	a.crowds[key] = c
	a.size += len(c.users)
}

// with returns the crowd with one more member.
func (c *crowd) with(user id.User) *crowd {
	at, there := slices.BinarySearch(c.users, user)
	if there {
		return c
	}
	return &crowd{users: slices.Insert(slices.Clone(c.users), at, user), loaded: c.loaded}
}

func (c *crowd) less(user id.User) *crowd {
	at, there := slices.BinarySearch(c.users, user)
	if !there {
		return c
	}
	return &crowd{users: slices.Delete(slices.Clone(c.users), at, at+1), loaded: c.loaded}
}

func (c *crowd) has(user id.User) bool {
	_, there := slices.BinarySearch(c.users, user)
	return there
}

// moved notes that somebody has joined a room, or is there no longer.
func (a *audience) moved(ctx context.Context, key roomdb.RoomKey, user id.User, joined bool) error {
	a.mu.Lock()
	c := a.crowds[key]
	if c != nil && !joined {
		a.put(key, c.less(user))
	}
	a.mu.Unlock()
	if c == nil || !joined {
		return nil
	}
	with, err := a.withPushers(ctx, []id.User{user})
	if err != nil || len(with) == 0 {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.crowds[key]; c != nil {
		a.put(key, c.with(user))
	}
	return nil
}

// changed forgets what rules look at of a room beside its events.
func (a *audience) changed(key roomdb.RoomKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.crowds[key]; c != nil && c.room != nil {
		a.put(key, &crowd{users: c.users, loaded: c.loaded, groups: c.groups, rulesGen: c.rulesGen})
	}
}

// of returns the members of a room with pushers, as of a state of it.
func (a *audience) of(ctx context.Context, key roomdb.RoomKey, sid int64) (*crowd, error) {
	a.mu.Lock()
	c, gen := a.crowds[key], a.pushers
	a.mu.Unlock()
	if c != nil && time.Since(c.loaded) < crowdAge {
		return c, nil
	}
	m, err := a.rooms.State(ctx, key.Part, sid)
	if err != nil {
		return nil, err
	}
	users, err := a.withPushers(ctx, a.localMembers(m))
	if err != nil {
		return nil, err
	}
	c = &crowd{loaded: time.Now()}
	if len(users) > 0 {
		slices.Sort(users)
		err = a.rooms.EachJoined(ctx, key, func(yield func(state.Key, int64) bool) {
			for _, u := range users {
				k := state.Key{Type: "m.room.member", StateKey: string(u)}
				if nid, ok := m.Get(k); ok && !yield(k, nid) {
					return
				}
			}
		}, func(joined []id.User) error { c.users = append(c.users, joined...); return nil })
		if err != nil {
			return nil, err
		}
		slices.Sort(c.users)
	}
	a.mu.Lock()
	full := a.size+len(c.users) > a.most || len(a.users) > a.most || len(a.crowds) >= a.most
	if !full && a.pushers == gen {
		a.put(key, c)
	}
	for _, u := range c.users { // a hint of changed rules may have been lost, too
		if a.users[u] != nil {
			a.stale[u] = struct{}{}
		}
	}
	a.mu.Unlock()
	if full {
		a.forgetAll()
	}
	return c, nil
}

func (a *audience) localMembers(m state.Map) (users []id.User) {
	for key := range m.Type("m.room.member") {
		if u := id.User(key.StateKey); a.isLocal(u.Server()) {
			users = append(users, u)
		}
	}
	return users
}

// withPushers returns those of some users who have pushers.
func (a *audience) withPushers(ctx context.Context, users []id.User) (with []id.User, err error) {
	now := time.Now()
	a.mu.Lock()
	gen := a.pushers
	ask := make([]id.User, 0, len(users))
	for _, u := range users {
		if at, known := a.without[u]; !known || now.Sub(at) > crowdAge {
			ask = append(ask, u)
		}
	}
	a.mu.Unlock()
	found := make(map[id.User]bool)
	for pool, g := range byShard(a.shards, ask) {
		rows, err := pool.Query(ctx, sqlWith, g.parts, g.users)
		if err != nil {
			return nil, fmt.Errorf("read pushers: %w", err)
		}
		some, err := pgx.CollectRows(rows, pgx.RowTo[id.User])
		if err != nil {
			return nil, fmt.Errorf("read pushers: %w", err)
		}
		for _, u := range some {
			found[u] = true
		}
		with = append(with, some...)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pushers != gen {
		return with, nil
	}
	if len(a.without)+len(ask) > maxWithout {
		clear(a.without)
	}
	for _, u := range ask {
		if !found[u] && len(a.without) < maxWithout {
			a.without[u] = now
		}
	}
	return with, nil
}

// usersOf are users of one shard with their partitions.
type usersOf struct {
	parts []int32
	users []string
}

func byShard(shards *pg.Shards, users []id.User) map[*pgxpool.Pool]*usersOf {
	out := make(map[*pgxpool.Pool]*usersOf)
	for _, u := range users {
		part := partition.Of(string(u))
		g := out[shards.For(part)]
		if g == nil {
			g = new(usersOf)
			out[shards.For(part)] = g
		}
		g.parts, g.users = append(g.parts, int32(part)), append(g.users, string(u))
	}
	return out
}

// rulesOf returns the rules of users with pushers, as they are now.
func (a *audience) rulesOf(ctx context.Context, users []id.User) (map[id.User]*notify.Rules, error) {
	known := make(map[id.User]int64)
	a.mu.Lock()
	for _, u := range users {
		if l := a.users[u]; l == nil || !l.read {
			known[u] = -1
		}
	}
	for u := range a.stale {
		if l := a.users[u]; l != nil {
			known[u] = l.seq
		}
	}
	clear(a.stale)
	a.mu.Unlock()
	if err := a.readRules(ctx, known); err != nil {
		a.mu.Lock()
		for u := range known {
			a.stale[u] = struct{}{}
		}
		a.mu.Unlock()
		return nil, err
	}
	out := make(map[id.User]*notify.Rules, len(users))
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, u := range users {
		if l := a.users[u]; l != nil {
			out[u] = l.rules
		} else { // forgotten meanwhile
			out[u] = notify.NewRules(u, nil, nil, nil)
		}
	}
	return out, nil
}

// readRules brings what is known of users up to date.
func (a *audience) readRules(ctx context.Context, known map[id.User]int64) error {
	if len(known) == 0 {
		return nil
	}
	type data struct {
		rules, ignore []byte
		hasRules      bool
		hasIgnore     bool
		seq           int64
	}
	read := make(map[id.User]*data, len(known))
	users := make([]id.User, 0, len(known))
	for u := range known {
		users = append(users, u)
	}
	for pool, g := range byShard(a.shards, users) {
		after := make([]int64, len(g.users))
		for i, u := range g.users {
			after[i] = known[id.User(u)]
		}
		rows, err := pool.Query(ctx, sqlRules, g.parts, g.users, after, []string{notify.PushRules, view.IgnoredUsers})
		if err != nil {
			return fmt.Errorf("read push rules: %w", err)
		}
		var user id.User
		var typ string
		var content []byte
		var deleted bool
		var seq int64
		_, err = pgx.ForEachRow(rows, []any{&user, &typ, &content, &deleted, &seq}, func() error {
			d := read[user]
			if d == nil {
				d = new(data)
				read[user] = d
			}
			if deleted {
				content = nil
			}
			if typ == notify.PushRules {
				d.rules, d.hasRules = slices.Clone(content), true
			} else {
				d.ignore, d.hasIgnore = slices.Clone(content), true
			}
			d.seq = max(d.seq, seq)
			return nil
		})
		if err != nil {
			return fmt.Errorf("read push rules: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for u := range known {
		d, l := read[u], a.users[u]
		if l == nil {
			l = new(listener)
			a.users[u] = l
		}
		if d == nil {
			d = new(data)
		}
		if l.read && !d.hasRules && !d.hasIgnore {
			continue
		}
		next := notify.NewRules(u, nil, d.rules, d.ignore)
		if l.rules != nil {
			next = l.rules.With(d.rules, d.hasRules, d.ignore, d.hasIgnore)
		}
		l.rules, l.seq, l.read = next, max(l.seq, d.seq), true
		a.rules++
	}
	return nil
}

// grouped returns the crowd of a room, sorted by what notifies its members.
func (a *audience) grouped(ctx context.Context, key roomdb.RoomKey, room id.Room, c *crowd) (*groups, error) {
	a.mu.Lock()
	if len(a.stale) == 0 && c.groups != nil && c.rulesGen == a.rules {
		defer a.mu.Unlock()
		return c.groups, nil
	}
	a.mu.Unlock()
	rules, err := a.rulesOf(ctx, c.users)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.groups != nil && c.rulesGen == a.rules {
		return c.groups, nil
	}
	g := &groups{own: make(map[[32]byte][]*notify.Rules)}
	for _, u := range c.users {
		switch r := rules[u]; {
		case r.Own():
			g.own[r.Class()] = append(g.own[r.Class()], r)
		case r.Level(room) == notify.All && len(r.Ignored) == 0:
			g.plain = append(g.plain, u)
		default:
			g.level = append(g.level, r)
		}
	}
	c.groups, c.rulesGen = g, a.rules
	return g, nil
}

// roomOf returns what rules look at of a room.
func (a *audience) roomOf(ctx context.Context, key roomdb.RoomKey, c *crowd) (*notify.Room, error) {
	a.mu.Lock()
	room := c.room
	a.mu.Unlock()
	if room != nil {
		return room, nil
	}
	room, err := notify.LoadRoom(ctx, a.rooms, key)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	c.room = room
	a.mu.Unlock()
	return room, nil
}
