package mxtest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

func (s *Server) createRoom(w http.ResponseWriter, _ *http.Request, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rm := &room{id: s.next("!room") + ":test", members: map[string]int{}}
	s.rooms[rm.id] = rm
	s.enter(rm, user)
	answer(w, http.StatusOK, map[string]string{"room_id": rm.id})
}

// enter appends the membership event. The lock is held.
func (s *Server) enter(rm *room, user string) {
	if _, ok := rm.members[user]; ok {
		return
	}
	s.add(rm.id, map[string]any{"type": "m.room.member", "state_key": user, "sender": user,
		"content": map[string]string{"membership": "join"}})
	rm.members[user] = len(s.log)
}

func (s *Server) add(room string, e map[string]any) string {
	e["event_id"] = s.next("$event")
	e["origin_server_ts"] = time.Now().UnixMilli()
	s.log = append(s.log, &event{room: room, json: e})
	close(s.wake)
	s.wake = make(chan struct{})
	id, _ := e["event_id"].(string)
	return id
}

func (s *Server) join(w http.ResponseWriter, r *http.Request, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rm := s.rooms[r.PathValue("room")]
	if rm == nil {
		refusal(w, http.StatusNotFound, "M_NOT_FOUND")
		return
	}
	s.enter(rm, user)
	answer(w, http.StatusOK, map[string]string{"room_id": rm.id})
}

// member returns the room if the user is in it. The lock is held.
func (s *Server) member(w http.ResponseWriter, r *http.Request, user string) *room {
	rm := s.rooms[r.PathValue("room")]
	if rm != nil {
		if _, ok := rm.members[user]; ok {
			return rm
		}
	}
	refusal(w, http.StatusForbidden, "M_FORBIDDEN")
	return nil
}

func (s *Server) joinedMembers(w http.ResponseWriter, r *http.Request, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rm := s.member(w, r, user)
	if rm == nil {
		return
	}
	out := map[string]any{}
	for m := range rm.members {
		out[m] = map[string]string{}
	}
	answer(w, http.StatusOK, map[string]any{"joined": out})
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, user string) {
	var content json.RawMessage
	if !read(w, r, &content) {
		return
	}
	s.mu.Lock()
	rm := s.member(w, r, user)
	if rm == nil {
		s.mu.Unlock()
		return
	}
	txn := r.Header.Get("Authorization") + "/" + rm.id + "/" + r.PathValue("txn")
	id, done := s.txns[txn]
	if !done {
		id = s.add(rm.id, map[string]any{"type": r.PathValue("type"), "sender": user, "content": content})
		s.txns[txn] = id
	}
	lose := s.lose > 0
	if lose {
		s.lose--
	}
	s.mu.Unlock()
	if lose {
		panic(http.ErrAbortHandler) // closes the connection
	}
	answer(w, http.StatusOK, map[string]string{"event_id": id})
}

// messages pages backwards; a token is the position after the next event to show.
func (s *Server) messages(w http.ResponseWriter, r *http.Request, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rm := s.member(w, r, user)
	if rm == nil {
		return
	}
	q := r.URL.Query()
	from, err := strconv.Atoi(q.Get("from"))
	if err != nil || from > len(s.log) {
		from = len(s.log)
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil {
		limit = 10
	}
	out := map[string]any{"start": strconv.Itoa(from)}
	chunk := []any{}
	for i := from; i > 0 && len(chunk) < limit; i-- {
		if e := s.log[i-1]; e.room == rm.id {
			chunk = append(chunk, withRoom(e))
		}
		if i > 1 {
			out["end"] = strconv.Itoa(i - 1)
		} else {
			delete(out, "end")
		}
	}
	out["chunk"] = chunk
	answer(w, http.StatusOK, out)
}

func withRoom(e *event) map[string]any {
	m := map[string]any{"room_id": e.room}
	for k, v := range e.json {
		m[k] = v
	}
	return m
}

func (s *Server) sync(w http.ResponseWriter, r *http.Request, user string) {
	q := r.URL.Query()
	since, err := strconv.Atoi(q.Get("since"))
	if err != nil {
		since = 0
	}
	ms, err := strconv.Atoi(q.Get("timeout"))
	if err != nil {
		ms = 0
	}
	deadline := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		if since > len(s.log) {
			s.mu.Unlock()
			refusal(w, http.StatusBadRequest, "M_INVALID_PARAM")
			return
		}
		join, wake, next := s.news(user, since), s.wake, len(s.log)
		s.mu.Unlock()
		out := map[string]any{"next_batch": strconv.Itoa(next)}
		if len(join) > 0 {
			out["rooms"] = map[string]any{"join": join}
		}
		if len(join) > 0 || q.Get("since") == "" || ms == 0 {
			answer(w, http.StatusOK, out)
			return
		}
		select {
		case <-wake:
		case <-deadline.C:
			answer(w, http.StatusOK, out)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// news are the user's joined rooms with events after since. The lock is held.
func (s *Server) news(user string, since int) map[string]any {
	type tail struct {
		events []map[string]any
		at     []int
	}
	tails := map[string]*tail{}
	for i := since; i < len(s.log); i++ {
		e := s.log[i]
		if _, ok := s.rooms[e.room].members[user]; !ok {
			continue
		}
		t := tails[e.room]
		if t == nil {
			t = &tail{}
			tails[e.room] = t
		}
		t.events, t.at = append(t.events, e.json), append(t.at, i)
	}
	join := map[string]any{}
	for id, t := range tails {
		cut := max(0, len(t.events)-TimelineLimit)
		events := t.events[cut:]
		prev := strconv.Itoa(t.at[cut])
		if s.damage != nil {
			events = s.damage(user, events)
		}
		join[id] = map[string]any{"timeline": map[string]any{
			"events": events, "limited": cut > 0, "prev_batch": prev,
		}}
	}
	return join
}
