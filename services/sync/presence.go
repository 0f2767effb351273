package sync

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	presencestore "hanse/pkg/presence"
	"hanse/pkg/token"
	logv1 "hanse/proto/log/v1"
)

// presence is how users are, as this worker has heard, and what it says of its own: that whoever polls is there. It is
// never truth: Redis holds the last word for a while, and a worker that starts knows nobody.
type presence struct {
	cfg   Config
	eph   *ephemeral
	store *presencestore.Store
	local func(id.Server) bool
	wake  func(id.User)
	log   *slog.Logger

	mu    sync.Mutex
	users map[id.User]*presenceOf
	order []presenceChange // by stamp; those that a newer change of the same user has replaced are swept
}

// presenceChange says when somebody changed.
type presenceChange struct {
	at   uint64
	user id.User
}

type presenceOf struct {
	changed  uint64 // stamp of the last change
	state    *logv1.Presence
	lastPoll time.Time
	said     string // what a poll set last
}

// heard is told of each change of presence.
func (ps *presence) heard(m *logv1.Presence) {
	if !ps.cfg.Presence {
		return
	}
	user := id.User(m.UserId)
	ps.mu.Lock()
	p := ps.of(user)
	old := p.state
	p.state = m
	news := old == nil || old.Presence != m.Presence || old.StatusMsg != m.StatusMsg || old.CurrentlyActive != m.CurrentlyActive
	if news {
		p.changed = ps.eph.tick()
		ps.order = append(ps.order, presenceChange{p.changed, user})
	}
	ps.mu.Unlock()
	if news {
		ps.wake(user)
	}
}

func (ps *presence) of(user id.User) *presenceOf {
	p := ps.users[user]
	if p == nil {
		p = new(presenceOf)
		ps.users[user] = p
	}
	return p
}

// seen says that a user polls (client-server API, set_presence of /sync).
func (ps *presence) seen(ctx context.Context, user id.User, set string) {
	if !ps.cfg.Presence || set == "offline" {
		return
	}
	if set == "" {
		set = "online"
	}
	now := time.Now()
	ps.mu.Lock()
	p := ps.of(user)
	same := p.state != nil && p.state.Presence == set && now.Sub(p.lastPoll) < ps.cfg.PresenceTimeout && p.said == set
	status := ""
	if p.state != nil {
		status = p.state.StatusMsg
	}
	p.lastPoll, p.said = now, set
	ps.mu.Unlock()
	if same {
		return
	}
	ps.publish(ctx, &logv1.Presence{UserId: string(user), Presence: set, StatusMsg: status, LastActiveMs: now.UnixMilli(), CurrentlyActive: set == "online", Local: true})
}

// publish tells everybody, this worker too.
func (ps *presence) publish(ctx context.Context, m *logv1.Presence) {
	if err := ps.store.Set(ctx, m); err != nil {
		ps.log.DebugContext(ctx, "presence not published", "user", m.UserId, "err", err)
	}
}

// sweep makes those offline who have stopped to poll, and forgets whom nobody has heard of for a day.
func (ps *presence) sweep(ctx context.Context) {
	now := time.Now()
	var gone []*logv1.Presence
	ps.mu.Lock()
	for user, p := range ps.users {
		if p.state == nil {
			delete(ps.users, user)
			continue
		}
		idle := now.Sub(p.lastPoll)
		if !p.lastPoll.IsZero() && idle > ps.cfg.PresenceTimeout && p.state.Presence != "offline" && ps.local(user.Server()) {
			p.lastPoll = time.Time{}
			gone = append(gone, &logv1.Presence{UserId: string(user), Presence: "offline", StatusMsg: p.state.StatusMsg, LastActiveMs: p.state.LastActiveMs, Local: true})
		}
		if p.lastPoll.IsZero() && now.UnixMilli()-p.state.LastActiveMs > (24*time.Hour).Milliseconds() {
			delete(ps.users, user)
		}
	}
	ps.order = slices.DeleteFunc(ps.order, func(c presenceChange) bool {
		p := ps.users[c.user]
		return p == nil || p.changed != c.at
	})
	ps.mu.Unlock()
	for _, m := range gone {
		ps.publish(ctx, m)
	}
}

type presenceBody struct {
	Presence        string `json:"presence"`
	StatusMsg       string `json:"status_msg,omitempty"`
	LastActiveAgo   int64  `json:"last_active_ago,omitempty"`
	CurrentlyActive bool   `json:"currently_active,omitempty"`
}

func presenceContent(m *logv1.Presence, now time.Time) presenceBody {
	b := presenceBody{Presence: m.Presence, StatusMsg: m.StatusMsg, CurrentlyActive: m.CurrentlyActive}
	if m.LastActiveMs > 0 {
		b.LastActiveAgo = max(1, now.UnixMilli()-m.LastActiveMs)
	}
	return b
}

// maxPresence bounds how many presences one answer looks at: the newest.
const maxPresence = 2000

// addPresence adds those who changed and whom the user may see: who shares a room with it (client-server API, module
// Presence).
func (s *Service) addPresence(ctx context.Context, a *answer, p *poll, m *moment) error {
	if !s.cfg.Presence || !p.filter.Presence.wantsType("m.presence") {
		return nil
	}
	since := token.Ephemeral{}
	if p.since != nil {
		since = p.since.Eph
	}
	changed := s.presence.since(s.eph.from(since), m.eph.Counter)
	if len(changed) == 0 {
		return nil
	}
	changed = slices.DeleteFunc(changed, func(c presenceNow) bool {
		return !listed(p.filter.Presence.Senders, p.filter.Presence.NotSenders, id.User(c.state.UserId))
	})
	visible, err := s.shared.with(ctx, p.user, changed)
	if err != nil {
		return err
	}
	now := time.Now()
	for i, c := range changed {
		if !visible[i] {
			continue
		}
		content, err := json.Marshal(presenceContent(c.state, now))
		if err != nil {
			return err
		}
		b := append(make([]byte, 0, len(content)+96), `{"content":`...)
		b = append(b, content...)
		b = append(b, `,"sender":`...)
		b = canonjson.AppendString(b, c.state.UserId)
		a.presence = append(a.presence, append(b, `,"type":"m.presence"}`...))
		a.news = a.news || c.at > since.Counter
	}
	return nil
}

// presenceNow is somebody's presence and when it changed.
type presenceNow struct {
	at    uint64
	state *logv1.Presence
}

// since returns who changed behind a stamp and up to another.
func (ps *presence) since(after, upTo uint64) []presenceNow {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	from, _ := slices.BinarySearchFunc(ps.order, after+1, func(c presenceChange, at uint64) int { return cmp.Compare(c.at, at) })
	order := ps.order[from:]
	if len(order) > maxPresence {
		order = order[len(order)-maxPresence:]
	}
	var changed []presenceNow
	for _, c := range order {
		if p := ps.users[c.user]; p != nil && p.changed == c.at && c.at <= upTo {
			changed = append(changed, presenceNow{c.at, p.state})
		}
	}
	return changed
}
