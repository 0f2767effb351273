package room

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// maxPrev is how many prev events a local event names at most (Synapse sends 10 to 20; receivers of the
// specification refuse more than 20: server-server API, "PDUs").
const maxPrev = 20

// intent is an event that a local user wants to send.
type intent struct {
	typ      string
	stateKey *string
	content  []byte
	sender   id.User
	redacts  id.Event
	ts       int64
	cause    cause
}

// writer drafts a change of a locked room: it builds events one upon the other, on a copy of the room's head. Nothing
// happens until the draft is put.
type writer struct {
	s *Service
	r *room
	h head
	c *change
	// drafted are the numbers of the draft's events, afters the states after events that the draft made or looked up.
	drafted map[id.Event]int64
	afters  map[int64]*state.Snapshot
	// authMissing are stored events that came before their auth events: drafted events replace their rows.
	authMissing map[id.Event]int64
	// foreign are events of other rooms that drafted events cite.
	foreign map[id.Event]id.Room
	// ready are snapshots one of which may be the next current state.
	ready []*state.Snapshot
	// maxExtremities is how many forward extremities of the room events of other servers may lead to.
	maxExtremities int
	// looked are stored events that were looked up, nil if there is none, and awaits what waits for such.
	looked map[id.Event]*roomdb.Event
	awaits map[id.Event]awaits
	// patient lets events wait for the resolution of the current state; held are those that do.
	patient bool
	held    []*newEvent
	// redone are stored events under the verdicts that the draft is to give them.
	redone map[int64]*roomdb.Event
	// resolved remembers resolutions under these verdicts, and those of the room when it had changed them so often.
	resolved memo
	verdicts int
	// unlocked is what was resolved for the draft before.
	unlocked *unlockedResolutions
}

func (s *Service) newWriter(ctx context.Context, r *room) *writer {
	r.drafted, r.unshared = nil, nil
	return &writer{s: s, r: r, h: r.head, c: newChange(ctx, r), drafted: make(map[id.Event]int64), afters: make(map[int64]*state.Snapshot),
		authMissing: make(map[id.Event]int64), maxExtremities: maxExtremities}
}

// put queues the draft.
func (w *writer) put() error {
	events := w.c.events // the lane may be done with the change before we are
	for _, e := range events {
		if nid, ok := w.authMissing[e.pdu.ID]; ok {
			w.c.replaced = append(w.c.replaced, nid)
		}
	}
	w.c.resolved = w.r.unshared
	awaiting := len(w.c.lacks)+len(w.c.awaited) > 0
	barsGuests, brought := w.c.barsGuests, len(w.c.found) > 0
	if err := w.r.put(w.c, w.h); err != nil {
		return err
	}
	if barsGuests {
		w.s.guestsSoon(w.c)
	}
	if brought {
		w.s.reviewAfter(w.c)
	}
	if awaiting {
		w.r.awaiting = w.c
	}
	w.r.noteQueued(w.c, events)
	for _, e := range events {
		if e.flags == 0 && !e.history && !e.withheld {
			w.r.recent.add(e, w.c)
		}
	}
	w.r.keepAfters(w.afters)
	return nil
}

func (w *writer) nid() int64 {
	n := w.r.p.nid.Add(1)
	w.c.nid = n
	return n
}

// send builds, authorises and signs one event on the draft, and applies it. A state event that changes nothing is not
// sent again: the id of the present one is returned (as Synapse does).
func (w *writer) send(ctx context.Context, in intent) (id.Event, error) {
	if in.stateKey != nil {
		same, err := w.unchanged(ctx, in)
		if err != nil || same != "" {
			return same, err
		}
	}
	on, err := w.base(ctx)
	if err != nil {
		return "", err
	}
	pdu, authNIDs, err := w.build(ctx, in, on)
	if err != nil {
		return "", err
	}
	if err := w.checkRelation(ctx, &in); err != nil {
		return "", err
	}
	e := &newEvent{pdu: pdu, nid: w.nid(), auth: authNIDs, cause: in.cause.at(len(w.c.events)), why: in.cause}
	return pdu.ID, w.extend(ctx, e, on)
}

// base is what a new event is built on: all forward extremities of the room, or as many as an event may name.
type base struct {
	extremities []extremity
	state       state.Map
	snap        *state.Snapshot
}

func (w *writer) base(ctx context.Context) (base, error) {
	all := base{extremities: w.h.extremities, state: w.h.state, snap: w.h.snap}
	if len(w.h.extremities) <= maxPrev {
		return all, nil
	}
	extremities := slices.Clone(w.h.extremities)
	slices.SortFunc(extremities, func(a, b extremity) int { return cmp.Compare(b.pdu.Depth, a.pdu.Depth) })
	on := base{extremities: extremities[:maxPrev]}
	var snaps []*state.Snapshot
	for _, t := range on.extremities {
		snap, err := w.afterExtremity(ctx, t)
		if err != nil {
			return base{}, err
		}
		snaps = append(snaps, snap)
	}
	m, err := w.resolveSnaps(ctx, snaps)
	if err != nil {
		return base{}, err
	}
	if on.snap, err = w.merge(snaps, m); err != nil {
		return base{}, err
	}
	on.state = m
	return on, nil
}

// unchanged returns the current state event that the intent would repeat.
func (w *writer) unchanged(ctx context.Context, in intent) (id.Event, error) {
	nid, ok := w.h.state.Get(state.Key{Type: in.typ, StateKey: *in.stateKey})
	if !ok || in.typ == typeCreate {
		return "", nil
	}
	old, err := w.s.event(ctx, w.r.p, nid)
	if err != nil {
		return "", err
	}
	if old.Sender != in.sender || old.RedactedBy != 0 || !sameContent(old.Content, in.content, w.r.rules) {
		return "", nil
	}
	return old.ID, nil
}

// build makes a signed event of an intent.
func (w *writer) build(ctx context.Context, in intent, on base) (*event.PDU, []int64, error) {
	server := in.sender.Server()
	key, err := w.s.servers.SigningKey(ctx, server)
	if err != nil {
		return nil, nil, fmt.Errorf("signing key of %s: %w", server, err)
	}
	d, found, err := w.fillDraft(ctx, in, on)
	if err != nil {
		return nil, nil, err
	}
	pdu, err := event.Build(*d, w.r.rules, server, key)
	if err != nil {
		return nil, nil, badEvent(err)
	}
	if pdu, err = w.s.cosign(ctx, pdu, server); err != nil {
		return nil, nil, err
	}
	if err := auth.Check(pdu, found.lookup, auth.Options{}); err != nil {
		return nil, nil, forbidden(err)
	}
	return pdu, found.nids, nil
}

// cosign adds the signatures of other local server names that an event needs: that of the server of the user who vouches for
// a restricted join.
func (s *Service) cosign(ctx context.Context, pdu *event.PDU, by id.Server) (*event.PDU, error) {
	for _, server := range pdu.SigningServers() {
		if server == by || !s.servers.IsLocal(server) {
			continue
		}
		key, err := s.servers.SigningKey(ctx, server)
		if err != nil {
			return nil, fmt.Errorf("signing key of %s: %w", server, err)
		}
		if pdu, err = event.Sign(pdu, server, key); err != nil {
			return nil, err
		}
	}
	return pdu, nil
}

// selected are the auth events of a draft.
type selected struct {
	lookup auth.Events // also the create event where auth events do not name it
	nids   []int64
}

// fillDraft fills in everything but hashes and signatures.
func (w *writer) fillDraft(ctx context.Context, in intent, on base) (*event.Draft, *selected, error) {
	d := &event.Draft{
		RoomID: w.r.id, Type: in.typ, StateKey: in.stateKey, Sender: in.sender, Content: in.content, Redacts: in.redacts,
		Depth: on.depth(), OriginServerTS: in.ts,
	}
	if d.OriginServerTS == 0 {
		d.OriginServerTS = time.Now().UnixMilli()
	}
	if in.typ == typeCreate && w.r.rules.RoomIDIsCreateHash {
		d.RoomID = ""
	}
	for _, t := range on.extremities {
		if err := refer(&d.PrevEvents, &d.PrevHashes, t.pdu); err != nil {
			return nil, nil, err
		}
	}
	found, err := w.s.authEvents(ctx, w.r.p, on.state, auth.NeededByDraft(d, w.r.rules))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range found.lookup {
		if !w.r.rules.RoomIDIsCreateHash || e.Type != typeCreate {
			if err := refer(&d.AuthEvents, &d.AuthHashes, e); err != nil {
				return nil, nil, err
			}
		}
	}
	return d, found, nil
}

// refer adds an event to those that a draft names; in versions 1 and 2 its hash stands beside it.
func refer(ids *[]id.Event, hashes *[][32]byte, e *event.PDU) error {
	*ids = append(*ids, e.ID)
	if e.Rules.EventFormat == 3 {
		return nil
	}
	h, err := event.ReferenceHash(e.JSON, e.Rules)
	if err != nil {
		return fmt.Errorf("hash of %s: %w", e.ID, err)
	}
	*hashes = append(*hashes, h)
	return nil
}

// depth of the next event: one more than the deepest it builds on, within what JSON of the version can hold.
func (b base) depth() int64 {
	deepest := int64(0)
	for _, t := range b.extremities {
		deepest = max(deepest, t.pdu.Depth)
	}
	return min(deepest+1, maxDepth)
}

// maxDepth is the largest integer of canonical JSON.
const maxDepth = 1<<53 - 1

// authEvents looks a selection up in a state. The create event comes with it in any case: the rules need it.
func (s *Service) authEvents(ctx context.Context, p *lease, m state.Map, needed []event.Tuple) (*selected, error) {
	nids := make([]int64, 0, len(needed)+1)
	create, hasCreate := m.Get(state.Key{Type: typeCreate})
	for _, t := range needed {
		if nid, ok := m.Get(state.Key(t)); ok {
			nids = append(nids, nid)
		}
	}
	out := &selected{nids: nids}
	with := nids
	if hasCreate && (len(nids) == 0 || nids[0] != create) {
		with = append(nids[:len(nids):len(nids)], create)
	}
	events, err := s.events(ctx, p, with)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		out.lookup = append(out.lookup, e.PDU)
	}
	return out, nil
}

// extend makes a local event the new forward extremity of the room.
func (w *writer) extend(ctx context.Context, e *newEvent, on base) error {
	if on.snap != nil {
		e.sid = on.snap.SID()
	}
	for _, t := range on.extremities {
		e.prev = append(e.prev, t.nid)
	}
	if w.h.partial() {
		w.unsure(e, false)
	}
	w.s.remember(w.r, e)
	if len(on.extremities) < len(w.h.extremities) {
		after, err := w.afterOf(e.pdu, e.nid, 0, on.snap, on.state)
		if err != nil {
			return err
		}
		return w.extendFork(ctx, e, after, true)
	}
	w.h.extremities = []extremity{{e.nid, e.pdu}}
	w.h.depth = max(w.h.depth, e.pdu.Depth)
	next := on.state
	if e.pdu.IsState() {
		next = next.Set(state.Key(e.pdu.Tuple()), e.nid)
	}
	w.add(e)
	return w.deliver(ctx, []*newEvent{e}, next, true)
}

// add makes an event part of the draft.
func (w *writer) add(e *newEvent) {
	w.drafted[e.pdu.ID] = e.nid
	w.c.events = append(w.c.events, e)
}

// deliver gives events of the draft their places in the timeline and moves the room's current state to next, with the
// first of them.
func (w *writer) deliver(ctx context.Context, events []*newEvent, next state.Map, local bool) error {
	before := w.h.sid
	moved, err := w.move(ctx, events, next)
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := w.tell(ctx, e, before, moved, local); err != nil {
			return err
		}
		before, moved = w.h.sid, nil
	}
	return nil
}

// tell puts an event into the log.
func (w *writer) tell(ctx context.Context, e *newEvent, before int64, moved []movedMember, local bool) error {
	shown, err := w.applyRedaction(ctx, e, local)
	if err != nil {
		return err
	}
	// One that changes what the room is, as it merges two forward extremities, cannot be kept back: nobody else would tell of that.
	if e.withheld = !shown && before == w.h.sid && len(moved) == 0; e.withheld {
		return nil
	}
	en, err := w.logEntry(ctx, e, before, moved, local)
	if err != nil {
		return err
	}
	w.c.entries = append(w.c.entries, en)
	for i := range moved {
		if m := &moved[i]; w.s.localUser(m.user) {
			w.c.members = append(w.c.members, memberRow{
				user: m.user, membership: m.now, eventNID: m.nid, eventID: m.event, sender: m.sender, entry: en,
				fresh: m.before != "join",
			})
		}
	}
	for _, by := range w.release(e) {
		if en, err = w.logEntry(ctx, by, w.h.sid, nil, false); err != nil {
			return err
		}
		w.c.entries = append(w.c.entries, en)
	}
	return nil
}

// movedMember is a member whose membership event changed in the current state.
type movedMember struct {
	user        id.User
	before, now string
	nid         int64
	event       id.Event
	sender      id.User
}

// move sets the current state, stores its snapshot and keeps the counts of members. Only what differs is looked at.
func (w *writer) move(ctx context.Context, by []*newEvent, next state.Map) ([]movedMember, error) {
	if next.Equal(w.h.state) {
		return nil, nil
	}
	var moved []movedMember
	for ch := range state.Diff(w.h.state, next) {
		succession(by, ch)
		if ch.Key == (state.Key{Type: typeGuestAccess}) && w.h.joinedLocal > 0 {
			barred, err := w.guestsBarred(ctx, ch.Old, ch.New)
			if err == nil && barred {
				err = w.removeGuests(ctx)
			}
			if err != nil {
				return nil, err
			}
		}
		if ch.Key.Type != typeMember {
			continue
		}
		m := movedMember{user: id.User(ch.Key.StateKey), nid: ch.New}
		if ch.Old != 0 {
			old, err := w.s.event(ctx, w.r.p, ch.Old)
			if err != nil {
				return nil, err
			}
			m.before = old.Membership()
		}
		m.now = "leave"
		if ch.New != 0 {
			now, err := w.s.event(ctx, w.r.p, ch.New)
			if err != nil {
				return nil, err
			}
			m.now, m.event, m.sender = now.Membership(), now.ID, now.Sender
		}
		w.count(m)
		moved = append(moved, m)
	}
	return moved, w.snapshot(next)
}

// succession tells the events that made a change of one key what each took the place of: of several in one move, all
// were current up to the one that still is.
func succession(by []*newEvent, ch state.Change) {
	last := slices.IndexFunc(by, func(e *newEvent) bool { return e.nid == ch.New })
	old := ch.Old
	for i := 0; i <= last; i++ {
		if e := by[i]; e.pdu.IsState() && state.Key(e.pdu.Tuple()) == ch.Key {
			e.replaces, old = old, e.nid
			if e.prior != 0 {
				e.replaces = e.prior
			}
			e.current = true
		}
	}
}

// snapshot makes next the current state, under a number of its own.
func (w *writer) snapshot(next state.Map) error {
	var snap *state.Snapshot
	var err error
	for _, ready := range w.ready {
		if ready.Map().Equal(next) {
			snap = ready
		}
	}
	switch {
	case snap != nil:
	case w.h.snap == nil:
		snap, err = w.batch().Root(w.r.p.part, w.nid(), next)
	default:
		snap, err = w.batch().Child(w.h.snap, w.nid(), next)
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	w.ready = nil
	w.c.snaps = append(w.c.snaps, offered{snap, w.h.sid})
	w.h.snap, w.h.state, w.h.sid = snap, snap.Map(), snap.SID()
	return nil
}

// delta is by how much the move changes the number of members of a kind.
func (m *movedMember) delta(membership string) int32 {
	d := int32(0)
	if m.now == membership {
		d++
	}
	if m.before == membership {
		d--
	}
	return d
}

// proto is how the log tells of it.
func (m *movedMember) proto() *logv1.MovedMember {
	return &logv1.MovedMember{UserId: string(m.user), Membership: m.now, PrevMembership: m.before, EventNid: m.nid,
		EventId: string(m.event), Sender: string(m.sender)}
}

func (w *writer) count(m movedMember) {
	joined := m.delta("join")
	w.h.joined += joined
	w.h.invited += m.delta("invite")
	if joined == 0 {
		return
	}
	if w.s.localUser(m.user) {
		w.h.joinedLocal += joined
	}
	if w.c.servers == nil {
		w.c.servers = make(map[id.Server]int32, 1)
	}
	w.c.servers[m.user.Server()] += joined
}

// forbidden makes a Matrix error of a refusal by the auth rules.
func forbidden(err error) error {
	var refusal *auth.Error
	if errors.As(err, &refusal) {
		return merr.Forbidden(refusal.Reason).WithCause(err)
	}
	return err
}

// membershipIn returns the membership of a user in a state, "" if there is none.
func (s *Service) membershipIn(ctx context.Context, p *lease, m state.Map, user id.User) (string, *roomdb.Event, error) {
	nid, ok := m.Get(state.Key{Type: typeMember, StateKey: string(user)})
	if !ok {
		return "", nil, nil
	}
	e, err := s.event(ctx, p, nid)
	if err != nil {
		return "", nil, err
	}
	return e.Membership(), e, nil
}
