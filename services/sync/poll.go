package sync

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"hanse/pkg/admission"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/session"
	"hanse/pkg/token"
)

// poll is one request of /v3/sync.
type poll struct {
	asker
	filter     *filter
	fullState  bool
	stateAfter bool
	unstable   bool // state_after was asked for by the name that it had in MSC4222
	timeout    time.Duration
	presence   string
	roomData   map[id.Room][][]byte // account data of rooms that the answer brings
	filled     map[id.Room]bool     // rooms whose state has become whole since the token
	held       *admission.Entry     // what a first answer takes of the budget; nil if it is none
	endLarge   func()               // gives its slot for a large answer back, if it has one
}

// maxTimeout bounds how long a poll is held, whatever the client asks for.
const maxTimeout = 5 * time.Minute

// handleSync is GET /_matrix/client/v3/sync (client-server API, section "Syncing").
func (s *Service) handleSync(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	p, err := s.parsePoll(r)
	if err != nil {
		return err
	}
	if err := s.users.get(ctx, &p.asker); err != nil {
		return err
	}
	defer s.users.done(&p.asker)
	defer func() {
		if p.endLarge != nil {
			p.endLarge()
		}
		if p.held != nil {
			p.held.Release()
		}
	}()
	if err := s.beginFirst(ctx, p); err != nil {
		return err
	}
	if err := s.checkToken(ctx, &p.asker); err != nil {
		return err
	}
	if err := s.acknowledge(ctx, &p.asker); err != nil {
		return err
	}
	s.presence.ready(ctx)
	defer s.presence.begin(ctx, p.who.User, p.device, p.presence)()
	body, err := s.wait(ctx, p)
	if err != nil {
		return err
	}
	err = s.send(ctx, w, p, body)
	if body.json != nil {
		recycle(body.json)
	}
	s.observe(ctx, &p.asker)
	return err
}

func (s *Service) parsePoll(r *http.Request) (*poll, error) {
	who := session.From(r)
	q := r.URL.Query()
	p := &poll{asker: newAsker(who), presence: q.Get("set_presence")}
	var err error
	if p.fullState, err = boolParam(q.Get("full_state"), "full_state"); err != nil {
		return nil, err
	}
	if p.stateAfter, err = boolParam(q.Get("use_state_after"), "use_state_after"); err != nil {
		return nil, err
	}
	if name := "org.matrix.msc4222.use_state_after"; !p.stateAfter {
		if p.unstable, err = boolParam(q.Get(name), name); err != nil {
			return nil, err
		}
		p.stateAfter = p.unstable
	}
	switch p.presence {
	case "", "online", "offline", "unavailable":
	default:
		return nil, merr.InvalidParam("set_presence is not one of offline, online, unavailable")
	}
	if t := q.Get("timeout"); t != "" {
		ms, err := strconv.ParseInt(t, 10, 64)
		if err != nil || ms < 0 {
			return nil, merr.InvalidParam("timeout is not a number of milliseconds")
		}
		p.timeout = min(time.Duration(min(ms, int64(maxTimeout/time.Millisecond)))*time.Millisecond, maxTimeout)
	}
	if t := q.Get("since"); t != "" {
		since, err := token.ParseSync(t, who.User)
		if err != nil {
			return nil, merr.InvalidParam("since: " + err.Error())
		}
		p.since, p.sinceText = &since, t
	}
	if p.filter, err = s.filterOf(r.Context(), who.User, q.Get("filter")); err != nil {
		return nil, err
	}
	p.byThread = p.filter.Room.Timeline.UnreadThreadNotifications
	return p, nil
}

func boolParam(v, name string) (bool, error) {
	switch v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, merr.InvalidParam(name + " is neither true nor false")
}

// noFilter lets everything pass.
var noFilter = new(filter)

// filterOf returns an inline filter, or one that the client has stored.
func (s *Service) filterOf(ctx context.Context, user id.User, param string) (*filter, error) {
	if param == "" {
		return noFilter, nil
	}
	if param[0] == '{' {
		return s.filters.parse(param)
	}
	n, err := strconv.ParseInt(param, 10, 64)
	if err != nil {
		return nil, merr.InvalidParam("filter is neither JSON nor the id of a filter")
	}
	return s.filters.get(ctx, user, n)
}

// wait answers as soon as there is something, or when the time is over. The token of an empty answer is as good as any:
// nothing between the two concerns the user.
func (s *Service) wait(ctx context.Context, p *poll) (*body, error) {
	deadline := time.Now().Add(p.timeout)
	if p.timeout == 0 || p.since == nil || p.fullState {
		// Who does not wait is told what PostgreSQL knows now, even if the bus is late with it or has lost it.
		if _, err := s.seqs.newer(ctx, p.user); err != nil {
			return nil, err
		}
	}
	var timer *time.Timer
	for first := true; ; first = false {
		if err := s.users.refresh(ctx, p.user); err != nil {
			return nil, err
		}
		a, err := s.answer(ctx, p)
		if err != nil {
			return nil, err
		}
		left := time.Until(deadline)
		if !a.empty() || p.since == nil || p.fullState || left <= 0 || s.draining() {
			return a.encode(), nil
		}
		if first {
			s.seqs.soon(p.user)
			timer = time.NewTimer(left)
			defer timer.Stop()
		}
		if err := s.hold(ctx, &p.asker, timer); err != nil {
			return nil, err
		}
	}
}
