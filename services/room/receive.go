package room

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
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
		return s.receiveOutside(ctx, id.Room(req.RoomId), req.Pdus)
	}
	if err != nil {
		return nil, err
	}
	defer leave()
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
		return nil, merr.NotFound("We are not in this room")
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

// gaps is what we lack to judge an event.
type gaps struct {
	known bool // the event is here, in its place
	auth  []id.Event
	prev  []id.Event
	have  []id.Event // prev events that we have, and ends of the room: what is before them is not asked for
	// partial says that members are missing from the room's state: the state before an event is not asked for then.
	partial bool
	// since is the depth at which we have come into the room: what is less deep is history, and no news.
	since int64
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

// look finds out what is missing. No network is asked while the room is locked.
func (in *intake) look(ctx context.Context, pdu *event.PDU) (gaps, error) {
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return gaps{}, err
	}
	defer r.unlock()
	names := append(append([]id.Event{pdu.ID}, pdu.AuthEvents...), pdu.PrevEvents...)
	found, _, err := r.usable(ctx, names)
	if err != nil {
		return gaps{}, err
	}
	g := gaps{partial: r.head.partial()}
	if e := found[pdu.ID]; e != nil && e.Flags&flagOutlier == 0 {
		g.known = true
		return g, nil
	}
	for _, a := range pdu.AuthEvents {
		if found[a] == nil {
			g.auth = append(g.auth, a)
		}
	}
	for _, p := range pdu.PrevEvents {
		if e := found[p]; e == nil || e.Flags&flagOutlier != 0 {
			g.prev = append(g.prev, p)
		} else {
			g.have = append(g.have, p)
		}
	}
	if len(g.prev) > 0 {
		for _, t := range r.head.tips[:min(len(r.head.tips), maxPrev)] {
			g.have = append(g.have, t.pdu.ID)
		}
		if g.since, err = r.since(ctx); err != nil {
			return gaps{}, err
		}
	}
	return g, nil
}

// since returns the depth of the event with which the room begins for us, fetched history apart: the join of ours that began
// this stay, or its creation; of a room whose members are being fetched the join that they were omitted from.
func (r *room) since(ctx context.Context) (depth int64, err error) {
	if r.partial != nil {
		join, err := r.s.event(ctx, r.p, r.partial.joinNID)
		if err != nil {
			return 0, err
		}
		return join.Depth, nil
	}
	rows, err := r.s.shards.For(r.p.part).Query(ctx, sqlSince, int32(r.p.part), r.nid)
	if err != nil {
		return 0, fmt.Errorf("read room %s: %w", r.id, err)
	}
	var at int64
	var member *string
	_, err = pgx.ForEachRow(rows, []any{&at, &member}, func() error {
		if member == nil || r.s.localUser(id.User(*member)) { // of ours only a join that began a stay follows what is missing
			depth = max(depth, at)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read room %s: %w", r.id, err)
	}
	return depth, nil
}

// fillGap asks the origin for the events before this one, and takes them in, oldest first. What is less deep than the event
// with which the room begins for us is left for history, as Synapse does: it would look new in a timeline.
func (in *intake) fillGap(ctx context.Context, pdu *event.PDU, g gaps) error {
	pdus, err := in.missing(ctx, pdu, g)
	if err != nil {
		return err
	}
	before := *in
	before.shallow = true
	return before.takeAll(ctx, pdus, func(i int, _ verdict, err error) {
		if err != nil {
			in.s.log.Debug("missing event", "event", pdus[i].ID, "err", err)
		}
	})
}

// missing gets the events before one, the newest if they are too many, in their order. A server tells so many at once: it is
// asked again for what is before these.
func (in *intake) missing(ctx context.Context, pdu *event.PDU, g gaps) ([]*event.PDU, error) {
	got := make(map[id.Event]*event.PDU)
	heard, names := []id.Event{pdu.ID}, pdu.PrevEvents
	for range missingAsks {
		raw, err := in.s.fetchMissing(ctx, in.home, in.origin, in.roomID, g.have, heard, g.since)
		if err != nil {
			in.s.log.Debug("get_missing_events", "room", in.roomID, "server", in.origin, "err", err)
			break // the state at the gap may still be had
		}
		if len(raw) > missingLimit {
			raw = raw[:missingLimit]
		}
		pdus, err := in.s.parseAll(ctx, raw, in.rules, in.roomID)
		if err != nil {
			return nil, err
		}
		more := reachable(pdus, names, missingLimit)
		more = slices.DeleteFunc(more, func(p *event.PDU) bool { return p.ID == pdu.ID || got[p.ID] != nil || p.Depth < g.since })
		for _, p := range more {
			got[p.ID] = p
		}
		if heard, names, err = in.unanswered(ctx, more, got); err != nil {
			return nil, err
		}
		if len(heard) == 0 {
			break
		}
	}
	// What their depths say is the business of who made them up.
	return ordered(slices.Collect(maps.Values(got)), func(p *event.PDU) []id.Event { return p.PrevEvents }), nil
}

// unanswered returns which of some missing events follow others that are missing still, and those.
func (in *intake) unanswered(ctx context.Context, pdus []*event.PDU, got map[id.Event]*event.PDU) (heard, names []id.Event, err error) {
	for _, p := range pdus {
		names = append(names, p.PrevEvents...)
	}
	names = slices.DeleteFunc(dedupe(names), func(name id.Event) bool { return got[name] != nil })
	if len(names) == 0 {
		return nil, nil, nil
	}
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return nil, nil, err
	}
	found, _, err := r.usable(ctx, names)
	r.unlock()
	if err != nil {
		return nil, nil, err
	}
	names = slices.DeleteFunc(names, func(name id.Event) bool { return found[name] != nil && found[name].Flags&flagOutlier == 0 })
	for _, p := range pdus {
		if slices.ContainsFunc(p.PrevEvents, func(name id.Event) bool { return slices.Contains(names, name) }) && len(heard) < maxPrev {
			heard = append(heard, p.ID)
		}
	}
	return heard, names, nil
}

// attach puts the event at its place, with all that it needs at hand.
func (in *intake) attach(ctx context.Context, pdu *event.PDU, states []fetchedState) (v verdict, err error) {
	err = in.draft(ctx, func(w *writer) error {
		w.foreign = in.foreign
		e, err := w.receive(ctx, pdu, states, false, in.relay)
		if v.known = e == nil; !v.known {
			v = w.verdict(e)
		}
		return err
	})
	if err != nil {
		return verdict{}, err
	}
	return v, nil
}

// draft queues what is drafted, and sees to it that the ends of the room do not pile up.
func (in *intake) draft(ctx context.Context, do func(*writer) error) error {
	ends, events, err := in.locked(ctx, do)
	if err != nil {
		return err
	}
	for _, e := range events {
		in.s.metrics.pdus.WithLabelValues(outcome(e.flags)).Inc()
	}
	switch {
	case ends > crowdedTips:
		in.s.mergeAll(ctx, in.roomID)
	case ends > mergeAbove:
		in.s.mergeSoon(in.roomID)
	}
	return nil
}

// locked is what of draft is done while the room is locked, and aside of that.
func (in *intake) locked(ctx context.Context, do func(*writer) error) (ends int, events []*newEvent, err error) {
	err = in.s.draft(ctx, in.solvent, in.admitted, func(w *writer) error {
		if in.shallow { // what comes after it may well name it
			w.maxTips *= 2
		}
		err := do(w)
		ends, events = len(w.h.tips), w.c.events // the lane may be done with the change before we are
		return err
	})
	return ends, events, err
}

// admitted returns the room, locked.
func (in *intake) admitted(ctx context.Context) (*room, error) {
	return in.s.joinedRoom(ctx, in.roomID)
}

// abandon forgets the verdicts of a draft that is not written on events that are stored.
func (w *writer) abandon() {
	for _, e := range w.c.events {
		w.undo(e)
	}
}

// undo is abandon for one event.
func (w *writer) undo(e *newEvent) {
	w.r.misplaced(e)
	if e.reversed() {
		w.r.forgetResolved()
	}
}

// verdict is what the draft makes of an event of it.
func (w *writer) verdict(e *newEvent) verdict {
	return verdict{flags: e.flags, refusal: e.refusal, event: e, change: w.c, part: w.r.p.part}
}

func outcome(flags int32) string {
	switch {
	case flags&flagRejected != 0:
		return "rejected"
	case flags&flagSoftFailed != 0:
		return "soft_failed"
	}
	return "accepted"
}

// receive drafts an event from elsewhere; nil if it is known by now.
func (w *writer) receive(ctx context.Context, pdu *event.PDU, states []fetchedState, history, relay bool) (*newEvent, error) {
	return w.receiveAs(ctx, pdu, states, history, relay, cause{})
}

func (w *writer) receiveAs(ctx context.Context, pdu *event.PDU, states []fetchedState, history, relay bool, why cause) (*newEvent, error) {
	if _, looked := w.awaits[pdu.ID]; !looked {
		if err := w.lookUp(ctx, pdu); err != nil {
			return nil, err
		}
	}
	found, err := w.stored(ctx, append([]id.Event{pdu.ID}, pdu.PrevEvents...))
	if err != nil {
		return nil, err
	}
	e := &newEvent{pdu: pdu, cause: why.at(0), why: why}
	if old := found[pdu.ID]; old == nil {
		if err := w.unclaimed(ctx, pdu.ID); err != nil {
			return nil, err
		}
		e.nid = w.nid()
	} else if old.Flags&flagOutlier != 0 {
		e.nid, e.place, e.was = old.NID, true, old.Flags
	} else {
		return nil, nil
	}
	at := place{history: history}
	for _, p := range pdu.PrevEvents {
		if ev := found[p]; ev != nil && ev.Flags&flagOutlier == 0 {
			at.prev = append(at.prev, ev)
		} else {
			at.missing = append(at.missing, p)
		}
	}
	if e.told = len(states) > 0 && len(at.missing) > 0; e.told {
		w.s.metrics.told.Inc()
	}
	if len(at.missing) == 0 { // they have come meanwhile
		states = nil
	}
	for _, st := range states {
		if st.after == "" && st.before == pdu.ID {
			at.only = true // the state before this very event: the prev events that we hold add nothing
		}
		at.fetched = append(at.fetched, st.Map)
	}
	if w.h.partial() && len(at.missing) > 0 {
		stand, err := w.standIn(ctx, history)
		if err != nil {
			return nil, err
		}
		at.also = append(at.also, stand)
	}
	if err := w.awaited(ctx, e); err != nil {
		return nil, err
	}
	at.lacked, at.known = w.awaits[pdu.ID].lacked, w.awaits[pdu.ID].named
	lacks, got, unsure := len(w.c.lacks), len(w.c.found), len(w.c.partial.unsure)
	if err := w.attach(ctx, e, at, relay); err != nil {
		// The draft may go on without it.
		w.c.lacks, w.c.found, w.c.partial.unsure = w.c.lacks[:lacks], w.c.found[:got], w.c.partial.unsure[:unsure]
		w.undo(e)
		return nil, err
	}
	return e, nil
}

// awaited finds out whether a redaction of an event came before it.
func (w *writer) awaited(ctx context.Context, e *newEvent) error {
	redactions := w.awaits[e.pdu.ID].redactions
	for _, a := range w.c.awaited {
		if a.target == e.pdu.ID {
			redactions = append(redactions, a.by)
		}
	}
	by, err := w.s.events(ctx, w.r.p, redactions)
	if err != nil {
		return err
	}
	var valid []*roomdb.Event
	for _, by := range by {
		powerful, err := w.mayRedact(ctx, by.Sender)
		if err != nil {
			return err
		}
		if by.Flags == 0 && redacts(by.PDU, e.pdu, powerful) {
			e.redactedBy = by.NID
			valid = append(valid, by)
		}
	}
	e.releases, err = w.withheld(ctx, valid)
	return err
}

// homeServer is one of our names that has a member in the room: requests of the room are made in its name.
func (r *room) homeServer(ctx context.Context) (id.Server, error) {
	if r.home != "" {
		return r.home, nil
	}
	user, err := r.s.localMember(ctx, r.p, r.head.state, func(id.User) bool { return true })
	if err != nil {
		return "", err
	}
	if user == "" {
		return "", merr.NotFound("We are not in this room")
	}
	r.home = user.Server()
	return r.home, nil
}

// membersAtOnce is how many memberships are looked at together.
const membersAtOnce = 200

// localMember finds one of our users who is joined in a state and of whom may says yes; "" if there is none.
func (s *Service) localMember(ctx context.Context, p *tenure, m state.Map, may func(id.User) bool) (id.User, error) {
	var nids []int64
	look := func() (id.User, error) {
		members, err := s.events(ctx, p, nids)
		nids = nids[:0]
		for _, e := range members {
			if e.Membership() == "join" {
				return id.User(*e.StateKey), nil
			}
		}
		return "", err
	}
	for key, nid := range m.Type(typeMember) {
		if user := id.User(key.StateKey); !s.localUser(user) || !may(user) {
			continue
		}
		if nids = append(nids, nid); len(nids) < membersAtOnce {
			continue
		}
		if user, err := look(); err != nil || user != "" {
			return user, err
		}
	}
	return look()
}
