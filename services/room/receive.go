package room

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/pg"
	roomv1 "hanse/proto/room/v1"
)

// Bounds of what one event of another server may cost us.
const (
	missingLimit  = 20  // events asked for by get_missing_events at once
	missingAsks   = 5   // how often these are asked for before one event
	missingStates = 5   // missing prev events whose state is asked for
	maxWaiting    = 64  // transactions that wait for one room
	maxReceive    = 100 // events in one request
	maxFetches    = 20  // states and auth chains asked for on behalf of one request
)

// errTooMuchMissing is the answer to events that lack more than one request may make us ask for.
var errTooMuchMissing = errors.New("too much is missing before the event")

// errBusy is the answer to events of a room that has more to do than it can.
var errBusy = errors.New("too many events wait for this room")

// Receive implements roomv1.RoomServer. The events of a room are taken in one after the other, in the goroutine of the
// request: a peer that sends what is expensive waits for itself.
func (s *Service) Receive(ctx context.Context, req *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error) {
	if len(req.Pdus) > maxReceive {
		return nil, merr.InvalidParam(fmt.Sprintf("%d events in one request", len(req.Pdus)))
	}
	in, leave, err := s.enterRoom(ctx, req.RoomId, id.Server(req.Origin))
	if merr.HasCode(err, merr.CodeNotFound) {
		return s.receiveUnjoined(ctx, id.Room(req.RoomId), req.Pdus)
	}
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx = sentBy(ctx)
	resp := &roomv1.ReceiveResponse{Results: make([]*roomv1.PduResult, len(req.Pdus))}
	pdus := in.parse(req.Pdus, resp.Results)
	problems := make(map[string]string, len(pdus))
	var last *change
	err = in.takeAll(ctx, pdus, func(i int, v verdict, err error) {
		if v.change != nil {
			last = v.change
		}
		problems[string(pdus[i].ID)] = v.problem(err)
	})
	if err == nil && last != nil {
		err = last.wait(ctx)
	}
	if err != nil {
		return nil, again(err)
	}
	for _, r := range resp.Results {
		if r.Error == "" {
			r.Error = problems[r.EventId]
		}
	}
	return resp, nil
}

// parse returns the events that are well-formed, each behind those of them that it names, and begins their results.
func (in *intake) parse(raw [][]byte, results []*roomv1.PduResult) []*event.PDU {
	pdus := make([]*event.PDU, 0, len(raw))
	twice := make(map[id.Event]bool, len(raw))
	for i, b := range raw {
		pdu, err := event.ParseIn(b, in.rules, in.roomID)
		if err != nil {
			in.s.metrics.pdus.WithLabelValues("malformed").Inc()
			results[i] = &roomv1.PduResult{EventId: gjson.GetBytes(b, "event_id").Str, Error: err.Error()}
			continue
		}
		results[i] = &roomv1.PduResult{EventId: string(pdu.ID)}
		if !twice[pdu.ID] {
			twice[pdu.ID] = true
			pdus = append(pdus, pdu)
		}
	}
	return ordered(pdus, func(p *event.PDU) []id.Event { return p.PrevEvents })
}

// busy tells the sender to come again.
func busy(after time.Duration) error {
	return merr.LimitExceeded(after.Milliseconds()).WithCause(errBusy)
}

// retry says whether the whole request must be made again: the partition or the room was lost under it, or has no time, or
// we have more to do than we can, or no PostgreSQL. What another server does not answer says something about its event
// instead.
func retry(err error) bool {
	_, elsewhere := asNotOwner(err)
	e, ok := merr.As(err)
	overloaded := ok && e.Status == http.StatusServiceUnavailable
	return elsewhere || overloaded || errors.Is(err, errBusy) || errors.Is(err, errUnavailable) || errors.Is(err, errStale) ||
		pg.Transient(err) && !errors.Is(err, errUnanswered)
}

// verdict is what became of an event.
type verdict struct {
	known   bool
	flags   int32
	refusal error
	event   *newEvent
	change  *change // to be waited for
	part    uint32
}

func (v verdict) problem(err error) string {
	switch {
	case err != nil:
		return err.Error()
	case v.flags&flagRejected != 0:
		if v.refusal != nil {
			return v.refusal.Error()
		}
		return "rejected"
	}
	return ""
}

// intake takes in events of a room from another server.
type intake struct {
	s            *Service
	roomID       id.Room
	rules        *roomversion.Rules
	origin, home id.Server
	// shallow: events that are missing before an event are not asked for again.
	shallow bool
	// relay says that it is our business to send the events to the other servers.
	relay bool
	// partial says that the room lacked members when the intake began.
	partial bool
	// foreign are events of other rooms that events of this one cite.
	foreign map[id.Event]id.Room
	// fetched counts the states and auth chains that were asked for.
	fetched *int
}

// fetch is called before a state or an auth chain is asked for: the other servers of the room wait for as long as
// that takes.
func (in *intake) fetch() error {
	if in.fetched == nil {
		in.fetched = new(int)
	}
	if *in.fetched >= maxFetches {
		return errTooMuchMissing
	}
	*in.fetched++
	return nil
}

func (s *Service) intake(ctx context.Context, roomID id.Room, origin id.Server) (*intake, error) {
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	if r.head.joinedLocal == 0 {
		return nil, merr.NotFound("This server is not in the room")
	}
	home, err := r.homeServer(ctx)
	if err != nil {
		return nil, err
	}
	return &intake{s: s, roomID: roomID, rules: r.rules, origin: origin, home: home, partial: r.head.partial(), fetched: new(int)}, nil
}

// enterRoom begins the intake of a room and waits for its turn there.
func (s *Service) enterRoom(ctx context.Context, roomText string, origin id.Server) (in *intake, leave func(), err error) {
	roomID, err := parseRoom(roomText)
	if err != nil {
		return nil, nil, err
	}
	if in, err = s.intake(ctx, roomID, origin); err != nil {
		return nil, nil, err
	}
	leave, err = in.enter(ctx)
	return in, leave, err
}

// enter waits for its turn in the room.
func (in *intake) enter(ctx context.Context) (leave func(), err error) {
	r, err := in.s.lockRoom(ctx, in.roomID)
	if err != nil {
		return nil, err
	}
	r.unlock()
	if r.waiting.Add(1) > maxWaiting {
		r.waiting.Add(-1)
		return nil, busy(time.Second)
	}
	in.s.metrics.ingest.Inc()
	defer in.s.metrics.ingest.Dec()
	defer r.waiting.Add(-1)
	select {
	case r.ingest <- struct{}{}:
		return func() { <-r.ingest }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// take takes one event in, and before it what it needs.
func (in *intake) take(ctx context.Context, pdu *event.PDU) (verdict, error) {
	g, err := in.look(ctx, pdu)
	if err != nil || g.known {
		return verdict{known: g.known}, err
	}
	if len(g.auth) > 0 {
		if err := in.fetchAuth(ctx, pdu, g.auth); err != nil {
			return verdict{}, err
		}
	}
	if len(g.prev) > 0 && !in.shallow && pdu.Depth >= g.since {
		if g, err = in.fillFromAny(ctx, pdu, g); err != nil || g.known {
			return verdict{known: g.known}, err
		}
	}
	var states []fetchedState
	if !g.partial {
		if states, err = in.statesAt(ctx, g.prev); err != nil {
			return verdict{}, err
		}
	}
	return in.attach(ctx, pdu, states)
}
