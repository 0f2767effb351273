package fedin

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/presence"
	logv1 "hanse/proto/log/v1"
)

const (
	// maxPresence bounds the users of one m.presence.
	maxPresence = 500
	// maxEarly and maxEarlyUsers bound the servers, and the users of each, whose presence came before a room.
	maxEarly      = 64
	maxEarlyUsers = 200
	// earlyStep is when it is first looked again whether a room is shared, then after twice that time, and so on;
	// earlySteps is how often: six queries for a server in a minute, and after another one it is forgotten.
	earlyStep  = time.Second
	earlySteps = 6
)

// receivePresence takes m.presence (server-server API, "Presence") of servers that share a room with us.
func (f *Fedin) receivePresence(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var p struct {
		Push []struct {
			User            string `json:"user_id"`
			Presence        string `json:"presence"`
			Status          string `json:"status_msg"`
			LastActiveAgo   int64  `json:"last_active_ago"`
			CurrentlyActive bool   `json:"currently_active"`
		} `json:"push"`
	}
	if err := decodeEDU(content, &p); err != nil {
		return err
	}
	if len(p.Push) > maxPresence {
		return ignored("too many users")
	}
	now := time.Now().UnixMilli()
	news := make([]*logv1.Presence, 0, len(p.Push))
	for _, u := range p.Push {
		user, err := compliantUserOf(u.User, origin)
		if err != nil || !presence.Valid(u.Presence) || len(u.Status) > presence.MaxStatus || !plain(u.Status) {
			continue
		}
		news = append(news, &logv1.Presence{UserId: string(user), Presence: u.Presence, StatusMsg: u.Status,
			LastActiveMs: now - max(0, u.LastActiveAgo), CurrentlyActive: u.CurrentlyActive})
	}
	shares, err := f.sharesRoom(ctx, origin)
	if err != nil {
		return err
	}
	if !shares {
		f.early.hold(origin, news, time.Now())
		return ignored("no room is shared")
	}
	f.setPresence(ctx, news)
	return nil
}

func (f *Fedin) setPresence(ctx context.Context, news []*logv1.Presence) {
	for _, p := range news {
		if _, err := f.presence.Change(ctx, id.User(p.UserId), nil, presence.Told(p)); err != nil {
			// Presence is never truth: what is lost comes again.
			f.log.DebugContext(ctx, "presence not stored", "user", p.UserId, "err", err)
		}
	}
}

// sharesRoom says whether a server is in one of our rooms. That it is not is remembered for a moment only, which bounds
// what strangers cost: a server may speak to us as soon as it has let one of ours in, before we have stored that.
func (f *Fedin) sharesRoom(ctx context.Context, server id.Server) (bool, error) {
	if _, ok := f.shares.Get(server); ok {
		return true, nil
	}
	if _, ok := f.apart.Get(server); ok {
		return false, nil
	}
	rooms, err := f.rooms.SharedRooms(ctx, server, 1)
	if err != nil {
		return false, err
	}
	known := f.apart
	if len(rooms) > 0 {
		known = f.shares
	}
	known.Add(server, struct{}{})
	return len(rooms) > 0, nil
}

// early is the newest presence of users whose servers share no room with us, as far as we know: one that lets one of
// ours into a room tells of its users at once (as Synapse does), which is before we have the room, and does not repeat
// it until something changes.
type early struct {
	held    chan struct{} // a first server is held
	mu      sync.Mutex
	servers map[id.Server]*earlyPresence
}

func (e *early) empty() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.servers) == 0
}

type earlyPresence struct {
	users map[string]*logv1.Presence
	at    time.Time // when to look again
	steps int       // how often that was done
}

// hold keeps what a server tells, if there is room for it.
func (e *early) hold(server id.Server, news []*logv1.Presence, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.servers[server]
	if held == nil {
		if len(news) == 0 || len(e.servers) == maxEarly {
			return
		}
		held = &earlyPresence{users: make(map[string]*logv1.Presence), at: now.Add(earlyStep)}
		if e.servers == nil {
			e.servers = make(map[id.Server]*earlyPresence)
		}
		if e.servers[server] = held; len(e.servers) == 1 {
			select {
			case e.held <- struct{}{}:
			default: // it was said already
			}
		}
	}
	for _, p := range news {
		if _, known := held.users[p.UserId]; known || len(held.users) < maxEarlyUsers {
			held.users[p.UserId] = p
		}
	}
}

// due returns the servers that are to be looked at, and forgets those that were looked at often enough.
func (e *early) due(now time.Time) []id.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	var due []id.Server
	for server, held := range e.servers {
		switch {
		case now.Before(held.at):
		case held.steps == earlySteps:
			delete(e.servers, server)
		default:
			held.steps++
			held.at = now.Add(earlyStep << held.steps)
			due = append(due, server)
		}
	}
	return due
}

// take returns what a server has told, and forgets it.
func (e *early) take(server id.Server) []*logv1.Presence {
	e.mu.Lock()
	defer e.mu.Unlock()
	var news []*logv1.Presence
	if held := e.servers[server]; held != nil {
		for _, p := range held.users {
			news = append(news, p)
		}
		delete(e.servers, server)
	}
	return news
}

// takeEarly takes the presence of servers with which a room is shared by now.
func (f *Fedin) takeEarly(ctx context.Context, now time.Time) {
	for _, server := range f.early.due(now) {
		f.apart.Remove(server)
		shares, err := f.sharesRoom(ctx, server)
		if err != nil {
			f.log.DebugContext(ctx, "early presence", "server", server, "err", err)
			continue
		}
		if shares {
			f.setPresence(ctx, f.early.take(server))
		}
	}
}
