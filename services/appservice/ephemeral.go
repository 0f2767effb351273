package appservice

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"hanse/pkg/appservice"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/presence"
	logv1 "hanse/proto/log/v1"
)

const (
	// hearAtOnce bounds the changes of typing and presence that wait to be looked at; others are lost.
	hearAtOnce = 1024
	// maxTyping bounds how long anybody types without saying so again.
	maxTyping = 2 * time.Minute
	// maxEphemeral bounds the rooms and users of which a service is to be told how they are.
	maxEphemeral = 1000
)

// ear hears of typing and presence, and tells the services that want to know. Nothing of it is stored: a service that fails misses it.
type ear struct {
	s        *Service
	typing   chan *logv1.Typing
	presence chan *logv1.Presence

	mu    sync.Mutex
	rooms map[id.Room]map[id.User]time.Time // who types, and until when
}

func newEar(s *Service) *ear {
	return &ear{s: s, typing: make(chan *logv1.Typing, hearAtOnce), presence: make(chan *logv1.Presence, hearAtOnce), rooms: make(map[id.Room]map[id.User]time.Time)}
}

// heardTyping and heardPresence are told of each change on the bus.
func (e *ear) heardTyping(m *logv1.Typing) {
	if beside(e.s.interest.match.Load()) {
		select {
		case e.typing <- m:
		default:
		}
	}
}

func (e *ear) heardPresence(m *logv1.Presence) {
	if !m.Quiet && beside(e.s.interest.match.Load()) {
		select {
		case e.presence <- m:
		default:
		}
	}
}

// run tells services until ctx ends.
func (e *ear) run(ctx context.Context) {
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case m := <-e.typing:
			err = e.types(ctx, m)
		case m := <-e.presence:
			err = e.is(ctx, m)
		}
		if err != nil && ctx.Err() == nil {
			e.s.log.Debug("typing and presence for application services", "err", err)
		}
	}
}

// types notes who types, and tells it.
func (e *ear) types(ctx context.Context, m *logv1.Typing) error {
	room, user := id.Room(m.RoomId), id.User(m.UserId)
	timeout := min(max(time.Duration(m.TimeoutMs)*time.Millisecond, 0), maxTyping)
	matcher := e.s.interest.match.Load()
	services, err := e.s.interest.present(ctx, matcher, room)
	if err != nil || len(services) == 0 {
		return err
	}
	e.mu.Lock()
	users := e.rooms[room]
	_, was := users[user]
	if m.Typing && timeout > 0 {
		if users == nil {
			users = make(map[id.User]time.Time)
			e.rooms[room] = users
		}
		until := time.Now().Add(timeout)
		users[user] = until
		time.AfterFunc(timeout, func() { e.ended(m, until) })
	} else {
		delete(users, user)
		if len(users) == 0 {
			delete(e.rooms, room)
		}
	}
	changed := was != (m.Typing && timeout > 0)
	typing := slices.Sorted(maps.Keys(users))
	e.mu.Unlock()
	if changed {
		content, err := json.Marshal(map[string][]id.User{"user_ids": append([]id.User{}, typing...)})
		if err != nil {
			return err
		}
		e.tell(matcher, services, "typing "+string(room), ephemeralEvent("m.typing", room, content))
	}
	return nil
}

// ended hears that somebody types no longer, unless they have said so again.
func (e *ear) ended(m *logv1.Typing, until time.Time) {
	e.mu.Lock()
	current := e.rooms[id.Room(m.RoomId)][id.User(m.UserId)].Equal(until)
	e.mu.Unlock()
	if current {
		e.heardTyping(&logv1.Typing{RoomId: m.RoomId, UserId: m.UserId})
	}
}

// is tells how somebody is: the services that have them in a namespace, and those that want the events of a room that they are in, as
// far as the worker knows the room.
func (e *ear) is(ctx context.Context, m *logv1.Presence) error {
	user := id.User(m.UserId)
	matcher := e.s.interest.match.Load()
	services := ownOf(matcher, user)
	if slices.Contains(e.s.names, user.Server()) {
		rooms, err := e.s.users.JoinedRooms(ctx, user)
		if err != nil {
			return err
		}
		for _, r := range rooms {
			if all, of, ok := e.s.interest.known(r.Room); ok && of == matcher {
				services = union(services, all)
			}
		}
	}
	if len(services) == 0 {
		return nil
	}
	content := map[string]any{"presence": m.Presence, "currently_active": m.CurrentlyActive}
	if m.StatusMsg != "" {
		content["status_msg"] = m.StatusMsg
	}
	if m.LastActiveMs > 0 {
		content["last_active_ago"] = presence.Ago(m, time.Now()).Milliseconds()
	}
	event, err := json.Marshal(map[string]any{"type": "m.presence", "sender": user, "content": content})
	if err != nil {
		return err
	}
	e.tell(matcher, services, "presence "+string(user), event)
	return nil
}

// tell gives some services an event in place of one about the same thing.
func (e *ear) tell(m *appservice.Matcher, services []int, about string, event []byte) {
	for _, i := range services {
		one := m.Services()[i]
		if !one.ReceiveEphemeral {
			continue
		}
		if b, ours := e.s.follow.Get(partition.Of(one.ID)); ours {
			if st := b.stream(one.ID); st != nil {
				st.hear(about, event)
			}
		}
	}
}

// ephemeralEvent writes an event of a room that is in no timeline.
func ephemeralEvent(typ string, room id.Room, content []byte) []byte {
	b := append([]byte(`{"content":`), content...)
	b = canonjson.AppendString(append(b, `,"room_id":`...), string(room))
	b = canonjson.AppendString(append(b, `,"type":`...), typ)
	return append(b, '}')
}

// hear gives the service something that is in no log, unless it fails or is behind: then it has more important things to hear.
func (s *stream) hear(about string, event []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.behind || s.health.failures > 0 || len(s.heard) >= maxEphemeral {
		return
	}
	s.heard[about] = event
	s.start()
}

// receipts writes the receipts among some items, an event for each room (client-server API, m.receipt).
func receipts(items []*item) ([][]byte, error) {
	type receipt struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id,omitempty"`
	}
	rooms := make(map[id.Room]map[string]map[string]map[string]receipt)
	for _, it := range items {
		r := it.entry.GetReceipt()
		if r == nil {
			continue
		}
		room := id.Room(it.entry.RoomId)
		if rooms[room] == nil {
			rooms[room] = make(map[string]map[string]map[string]receipt)
		}
		of := rooms[room]
		if of[r.EventId] == nil {
			of[r.EventId] = make(map[string]map[string]receipt)
		}
		if of[r.EventId][r.Type] == nil {
			of[r.EventId][r.Type] = make(map[string]receipt)
		}
		of[r.EventId][r.Type][r.UserId] = receipt{r.Ts, r.ThreadId}
	}
	var events [][]byte
	for _, room := range slices.Sorted(maps.Keys(rooms)) {
		content, err := json.Marshal(rooms[room])
		if err != nil {
			return nil, err
		}
		events = append(events, ephemeralEvent("m.receipt", room, content))
	}
	return events, nil
}
