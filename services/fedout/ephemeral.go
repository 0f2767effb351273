package fedout

import (
	"context"
	"fmt"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	logv1 "hanse/proto/log/v1"
)

// Typing and presence come over the bus. They are for the moment: who does not keep up does not get them.

// subscribe hears what is not in the log.
func (f *sender) subscribe() ([]*bus.Subscription, error) {
	subs := make([]*bus.Subscription, 0, 3)
	for _, subscribe := range []func() (*bus.Subscription, error){
		func() (*bus.Subscription, error) { return f.s.bus.SubscribeFedout(f.wake) },
		func() (*bus.Subscription, error) {
			return f.s.bus.SubscribeTyping(func(t *logv1.Typing) {
				if t.Local && f.isLocal(id.User(t.UserId).Server()) {
					f.later(func() { f.spreadTyping(t) })
				}
			})
		},
		func() (*bus.Subscription, error) {
			return f.s.bus.SubscribePresence(func(p *logv1.Presence) {
				if p.Local && !p.Quiet && f.isLocal(id.User(p.UserId).Server()) {
					f.later(func() { f.spreadPresence(p) })
				}
			})
		},
	} {
		sub, err := subscribe()
		if err != nil {
			return subs, fmt.Errorf("fedout: %w", err)
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// later has something done away from the bus's own goroutine; if there is too much of it, it is not done.
func (f *sender) later(do func()) {
	select {
	case f.ephemeral <- do:
	default:
	}
}

func (f *sender) ephemerals(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case do := <-f.ephemeral:
			do()
		}
	}
}

const ephemeralTimeout = 5 * time.Second

func (f *sender) spreadTyping(t *logv1.Typing) {
	ctx, cancel := context.WithTimeout(f.ctx, ephemeralTimeout)
	defer cancel()
	roomID, err := id.ParseRoom(t.RoomId)
	if err != nil {
		return
	}
	room, ok := f.typed.Get(roomID)
	if !ok {
		row, err := f.s.db.Room(ctx, roomID)
		if err != nil {
			f.s.log.Debug("typing not sent", "room", roomID, "err", err)
			return
		}
		room = roomKey{row.Part, row.NID}
		f.typed.Add(roomID, room)
	}
	to, err := f.present(ctx, room)
	if err != nil {
		f.s.log.Debug("typing not sent", "room", roomID, "err", err)
		return
	}
	key := typingKey{t.RoomId, id.User(t.UserId)}
	f.each(to, func(d *dest) {
		if d.typing == nil {
			d.typing = make(map[typingKey]*logv1.Typing)
		}
		if len(d.typing) < maxTyping {
			d.typing[key] = t
		}
	})
}

func (f *sender) spreadPresence(p *logv1.Presence) {
	ctx, cancel := context.WithTimeout(f.ctx, ephemeralTimeout)
	defer cancel()
	user := id.User(p.UserId)
	rooms, ok := f.joined.Get(user)
	if !ok {
		var err error
		if rooms, err = f.s.users.JoinedRooms(ctx, user); err != nil {
			f.s.log.Debug("presence not sent", "user", user, "err", err)
			return
		}
		f.joined.Add(user, rooms)
	}
	seen := make(map[id.Server]bool)
	var to []target
	for _, r := range rooms {
		servers, err := f.present(ctx, roomKey{r.Part, r.NID})
		if err != nil {
			f.s.log.Debug("presence not sent", "user", user, "err", err)
			return
		}
		for _, t := range servers {
			if !seen[t.server] {
				seen[t.server] = true
				to = append(to, t)
			}
		}
	}
	f.each(to, func(d *dest) { d.addPresence(p) })
}

// addPresence has a user's presence sent, in place of what waits of it. d.mu is held.
func (d *dest) addPresence(p *logv1.Presence) {
	user := id.User(p.UserId)
	if d.presence == nil {
		d.presence = make(map[id.User]*logv1.Presence)
	}
	old := d.presence[user]
	if old == nil && len(d.presence) < maxPresence || old != nil && old.VersionMs <= p.VersionMs {
		d.presence[user] = p
	}
}

// present returns the other servers in a room, as of about now.
func (f *sender) present(ctx context.Context, key roomKey) ([]target, error) {
	if rs, ok := f.rooms.peek(key); ok {
		return rs.remote, nil
	}
	servers, err := f.s.db.Servers(ctx, key.part, key.nid)
	if err != nil {
		return nil, err
	}
	var to []target
	for _, s := range servers {
		if !f.isLocal(s) {
			to = append(to, target{s, partition.Of(string(s))})
		}
	}
	return to, nil
}

// each calls fn, which changes what waits, for those of the destinations that are ours and keep up.
func (f *sender) each(to []target, fn func(*dest)) {
	now := time.Now()
	for _, t := range to {
		p, ok := f.follow.Get(t.part)
		if !ok {
			continue
		}
		d := p.dest(t.server)
		d.mu.Lock()
		if !d.gone && d.state(now) == "healthy" {
			fn(d)
			d.start()
		}
		d.mu.Unlock()
	}
}
