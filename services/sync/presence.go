package sync

import (
	"cmp"
	"context"
	"encoding/json"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	presencestore "hanse/pkg/presence"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
	logv1 "hanse/proto/log/v1"
)

// presence is how users are, as this worker has heard, and which devices poll here. It is never truth: Redis holds the
// last word for a while (pkg/presence), and the bus says what is new.
type presence struct {
	cfg   Config
	eph   *ephemeral
	store *presencestore.Store
	wake  func(id.User)
	log   *slog.Logger

	loaded chan struct{} // closed when it is known who is there

	mu    sync.Mutex
	users map[id.User]*presenceOf
	order []presenceChange // by stamp; those that a newer change of the same user has replaced are swept
}

// maxKnown bounds the users whose presence a worker remembers, but for those who poll here. The others are those who
// changed last.
const maxKnown = 300_000

// presenceChange says when somebody changed.
type presenceChange struct {
	at   uint64
	user id.User
}

type presenceOf struct {
	changed uint64 // stamp of the last change
	state   *logv1.Presence
	here    map[id.Device]*polling
	look    time.Time // when to look whether time has changed it
}

// heard is told of each change of presence.
func (ps *presence) heard(m *logv1.Presence) {
	if ps.cfg.Presence {
		ps.learn(m, presencestore.Due(m))
	}
}

// learn notes somebody's presence, to be looked at again at a time; zero: as before.
func (ps *presence) learn(m *logv1.Presence, look time.Time) {
	user := id.User(m.UserId)
	ps.mu.Lock()
	p := ps.of(user)
	old := p.state
	if old != nil && m.VersionMs < old.VersionMs {
		ps.mu.Unlock()
		return // two workers have told of two changes, and the newer one was faster
	}
	p.state = m
	if !look.IsZero() {
		p.look = look
	}
	news := presencestore.News(old, m)
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
		for len(ps.users) >= maxKnown && len(ps.order) > 0 {
			if first := ps.order[0]; ps.current(first) && len(ps.users[first.user].here) == 0 {
				delete(ps.users, first.user)
			}
			ps.order = ps.order[1:]
		}
		p = new(presenceOf)
		ps.users[user] = p
	}
	return p
}

// current says whether a change is the last one of its user.
func (ps *presence) current(c presenceChange) bool {
	p := ps.users[c.user]
	return p != nil && p.changed == c.at
}

// loadTime bounds how long a worker that starts reads who is there, and how long its first polls wait for that.
const loadTime = 5 * time.Second

// load learns from Redis who is there, when the worker starts. A change was when others were told of it.
func (ps *presence) load(ctx context.Context) error {
	defer close(ps.loaded)
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	var all []*logv1.Presence
	err := ps.store.Each(ctx, maxKnown, func(m *logv1.Presence) { all = append(all, m) })
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, m := range all {
		user := id.User(m.UserId)
		if p := ps.users[user]; p != nil && p.state != nil || len(ps.users) >= maxKnown {
			continue // heard meanwhile
		}
		p := ps.of(user)
		p.state, p.look, p.changed = m, presencestore.Due(m), uint64(max(1, m.ToldMs))
		ps.order = append(ps.order, presenceChange{p.changed, user})
	}
	slices.SortStableFunc(ps.order, func(a, b presenceChange) int { return cmp.Compare(a.at, b.at) })
	return err
}

// ready waits until it is known who is there: what a token has passed is not told any more.
func (ps *presence) ready(ctx context.Context) {
	if !ps.cfg.Presence {
		return
	}
	select {
	case <-ps.loaded:
		return
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	select {
	case <-ps.loaded:
	case <-ctx.Done():
	}
}

// known is the number of users of whom something is known.
func (ps *presence) known() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(ps.users)
}

type presenceBody struct {
	Presence        string `json:"presence"`
	StatusMsg       string `json:"status_msg,omitempty"`
	LastActiveAgo   int64  `json:"last_active_ago,omitempty"`
	CurrentlyActive bool   `json:"currently_active,omitempty"`
}

func presenceContent(m *logv1.Presence, now time.Time) presenceBody {
	return presenceBody{Presence: m.Presence, StatusMsg: m.StatusMsg, CurrentlyActive: m.CurrentlyActive,
		LastActiveAgo: presencestore.Ago(m, now).Milliseconds()}
}

// maxPresence bounds how many presences one answer looks at: the newest, and those of so many roommates.
const maxPresence = 2000

// addPresence adds those who changed and whom the user may see: who shares a room with it (client-server API, module
// Presence). Of those whom it sees for the first time it is told if they are there, as it is at first.
func (s *Service) addPresence(ctx context.Context, a *answer, p *poll, m *moment) error {
	if !s.cfg.Presence || !p.filter.Presence.wantsType("m.presence") {
		return nil
	}
	since := token.Ephemeral{}
	if p.since != nil {
		since = p.since.Eph
	}
	from := s.eph.from(since)
	changed, more := s.presence.since(from, m.eph.Counter)
	if more {
		mates, err := s.roommates(ctx, p.user)
		if err != nil {
			return err
		}
		changed = s.presence.add(changed, slices.Values(mates), from, m.eph.Counter)
	}
	if len(a.met) > 0 {
		changed = s.presence.add(changed, maps.Keys(a.met), 0, m.eph.Counter)
	}
	changed = slices.DeleteFunc(changed, func(c presenceNow) bool {
		return c.state.Presence == presencestore.Offline && (p.since == nil || c.at <= from) ||
			!listed(p.filter.Presence.Senders, p.filter.Presence.NotSenders, id.User(c.state.UserId))
	})
	if len(changed) == 0 {
		return nil
	}
	visible, err := s.shared.with(ctx, p.user, changed)
	if err != nil {
		return err
	}
	now := time.Now()
	for i, c := range changed {
		if _, met := a.met[id.User(c.state.UserId)]; !met && !visible[i] {
			continue // who has come just now may not be known to share a room yet
		}
		event, err := presenceEvent(c.state, now)
		if err != nil {
			return err
		}
		a.presence = append(a.presence, event)
		a.news = a.news || c.at > since.Counter
	}
	return nil
}

func presenceEvent(m *logv1.Presence, now time.Time) ([]byte, error) {
	content, err := json.Marshal(presenceContent(m, now))
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, len(content)+96), `{"content":`...)
	b = append(b, content...)
	b = append(b, `,"sender":`...)
	b = canonjson.AppendString(b, m.UserId)
	return append(b, `,"type":"m.presence"}`...), nil
}

// roommates returns members of the user's rooms, of the smallest first.
func (s *Service) roommates(ctx context.Context, u *user) ([]id.User, error) {
	var keys []roomdb.RoomKey
	for _, r := range u.joinedRooms() {
		keys = append(keys, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID})
	}
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return nil, err
	}
	rooms := slices.SortedFunc(maps.Values(rows), func(a, b *roomdb.Room) int { return cmp.Compare(a.Joined, b.Joined) })
	var mates []id.User
	for _, row := range rooms {
		if len(mates)+row.Joined > maxPresence {
			break
		}
		m, err := s.rooms.State(ctx, row.Part, row.SID)
		if err != nil {
			return nil, err
		}
		err = s.rooms.EachJoined(ctx, row.Key(), m.Type(memberType), func(users []id.User) error {
			mates = append(mates, users...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return mates, nil
}

// presenceNow is somebody's presence and when it changed.
type presenceNow struct {
	at    uint64
	state *logv1.Presence
}

// since returns who changed behind a stamp and up to another. If these are too many, it is the newest, and more is true.
func (ps *presence) since(after, upTo uint64) (changed []presenceNow, more bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	from, _ := slices.BinarySearchFunc(ps.order, after+1, func(c presenceChange, at uint64) int { return cmp.Compare(c.at, at) })
	order := ps.order[from:]
	if more = len(order) > maxPresence; more {
		order = order[len(order)-maxPresence:]
	}
	for _, c := range order {
		if c.at <= upTo && ps.current(c) {
			changed = append(changed, presenceNow{c.at, ps.users[c.user].state})
		}
	}
	return changed, more
}

// add adds those of some users who changed behind a stamp and up to another and are not there yet.
func (ps *presence) add(changed []presenceNow, users iter.Seq[id.User], after, upTo uint64) []presenceNow {
	have := make(map[id.User]struct{}, len(changed))
	for _, c := range changed {
		have[id.User(c.state.UserId)] = struct{}{}
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for u := range users {
		p := ps.users[u]
		if _, ok := have[u]; ok || p == nil || p.state == nil || p.changed <= after || p.changed > upTo {
			continue
		}
		have[u] = struct{}{}
		changed = append(changed, presenceNow{p.changed, p.state})
	}
	return changed
}
