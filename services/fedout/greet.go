package fedout

import (
	"context"
	"iter"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/outgoing"
	"hanse/pkg/partition"
	"hanse/pkg/presence"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// Presence is sent when it changes. Users who meet in a room must know each other's presence at once: when a local user joins
// a room, the servers there get that user's presence, and when another server's user joins, that server gets the presence of the
// local users there (server-server API, "Presence": "updates for users that the receiving server would be interested in"; Synapse does so).

const (
	// maxGreeted bounds the members of rooms in which other servers are told of ours: in larger ones they hear of each
	// when that changes, or is told of again (presence.PingEvery).
	maxGreeted = 1000
	// greetedFor is for how long it is remembered that a server was told of a room's members.
	greetedFor = 10 * time.Minute
	// lateJoin is how old a local join is that nobody is told of: the log is being caught up.
	lateJoin = time.Minute
)

// greeting is a server that has been told how those in a room are.
type greeting struct {
	room   roomKey
	server id.Server
}

// greet has presence told to those who meet by a log entry. It is called for entries in their order, and again for those
// that are read again.
func (f *sender) greet(key roomKey, pos int64, ev *logv1.Event) {
	if outgoing.Joins(ev) <= 0 || ev.StateKey == nil {
		return
	}
	user := id.User(*ev.StateKey)
	server := user.Server()
	if f.isLocal(server) {
		if time.Since(time.UnixMilli(ev.OriginServerTs)) < lateJoin {
			f.later(func() { f.announce(key, user) })
		}
		return
	}
	p, ok := f.follow.Get(partition.Of(string(server)))
	if !ok || p.Handed(key.part) >= pos {
		return
	}
	if _, done := f.greeted.Peek(greeting{key, server}); done {
		return
	}
	f.greeted.Add(greeting{key, server}, struct{}{})
	f.later(func() { f.introduce(key, server) })
}

// announce tells the servers in a room how one of ours is.
func (f *sender) announce(key roomKey, user id.User) {
	ctx, cancel := context.WithTimeout(f.ctx, ephemeralTimeout)
	defer cancel()
	known, err := f.s.presence.GetMany(ctx, []id.User{user})
	if err == nil && isThere(known[user]) {
		var to []target
		if to, err = f.present(ctx, key); err == nil {
			f.each(to, func(d *dest) { d.addPresence(known[user]) })
		}
	}
	if err != nil {
		f.s.log.Debug("presence not sent", "user", user, "err", err)
	}
}

// introduce tells a server how those of ours are who are in a room.
func (f *sender) introduce(key roomKey, server id.Server) {
	ctx, cancel := context.WithTimeout(f.ctx, ephemeralTimeout)
	defer cancel()
	known, err := f.here(ctx, key)
	if err != nil {
		f.s.log.Debug("presence not sent", "server", server, "err", err)
		return
	}
	f.each([]target{{server, partition.Of(string(server))}}, func(d *dest) {
		for _, p := range known {
			if isThere(p) {
				d.addPresence(p)
			}
		}
	})
}

func isThere(p *logv1.Presence) bool { return p != nil && p.Presence != presence.Offline }

// here returns the presence of the local users in a room that is not too large.
func (f *sender) here(ctx context.Context, key roomKey) (map[id.User]*logv1.Presence, error) {
	users, err := f.localJoined(ctx, key, maxGreeted)
	if err != nil {
		return nil, err
	}
	return f.s.presence.GetMany(ctx, users)
}

// localMembers are the member events of local users in a state.
func (f *sender) localMembers(m state.Map) iter.Seq2[state.Key, int64] {
	return func(yield func(state.Key, int64) bool) {
		for key, nid := range m.Type("m.room.member") {
			if f.isLocal(id.User(key.StateKey).Server()) && !yield(key, nid) {
				return
			}
		}
	}
}
