package room

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/roomdb"
)

// Flags of stored events.
const (
	flagOutlier     = roomdb.Outlier
	flagRejected    = roomdb.Rejected
	flagSoftFailed  = roomdb.SoftFailed
	flagAuthMissing = roomdb.AuthMissing
)

// Event types that this role has to know.
const (
	typeCreate      = "m.room.create"
	typeMember      = "m.room.member"
	typePowerLevels = "m.room.power_levels"
	typeJoinRules   = "m.room.join_rules"
	typeRedaction   = "m.room.redaction"
	typeServerACL   = "m.room.server_acl"
	typeDummy       = "org.matrix.dummy_event"
)

// eventKey names an event of a lease. Numeric ids of changes that were never committed may be given out again under a
// later epoch, so the epoch is part of it.
type eventKey struct {
	part  uint32
	epoch int64
	nid   int64
}

// remember keeps a new event at hand: what is built upon it needs it before it is committed.
func (s *Service) remember(r *room, e *newEvent) {
	ev := &roomdb.Event{
		PDU: e.pdu, Part: r.p.part, RoomNID: r.nid, NID: e.nid, SID: e.sid, Flags: e.flags, Auth: e.auth, Prev: e.prev,
	}
	e.stored = ev
	s.cache.Add(eventKey{r.p.part, r.p.epoch, e.nid}, ev)
	if e.reversed() {
		r.forgetResolved()
	}
	r.noteDrafted(e)
}

// misplaced drops what remember kept of an event that was stored before and is not written under its new verdict.
func (r *room) misplaced(e *newEvent) {
	if e.rowExists {
		r.s.cache.Remove(eventKey{r.p.part, r.p.epoch, e.nid})
	}
}

// event returns one event of a partition.
func (s *Service) event(ctx context.Context, p *lease, nid int64) (*roomdb.Event, error) {
	if e, ok := s.cache.Get(eventKey{p.part, p.epoch, nid}); ok {
		return e, nil
	}
	events, err := s.events(ctx, p, []int64{nid})
	if err != nil {
		return nil, err
	}
	return events[0], nil
}

// errMissingEvent says that an event that others refer to is not stored.
var errMissingEvent = errors.New("event is not stored")

// events returns events of a partition in the order asked for. All must exist.
func (s *Service) events(ctx context.Context, p *lease, nids []int64) ([]*roomdb.Event, error) {
	return s.readEvents(ctx, p, nids, true)
}

// readEvents is events; keep says whether they are worth a place in the cache.
func (s *Service) readEvents(ctx context.Context, p *lease, nids []int64, keep bool) ([]*roomdb.Event, error) {
	out := make([]*roomdb.Event, len(nids))
	var missing []int64
	for i, nid := range nids {
		if e, ok := s.cache.Get(eventKey{p.part, p.epoch, nid}); ok {
			out[i] = e
		} else if e := p.queuedEvent(nid); e != nil {
			out[i] = e
		} else {
			missing = append(missing, nid)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := s.db.Events(ctx, p.part, missing)
	if err != nil {
		return nil, err
	}
	for i, nid := range nids {
		if out[i] != nil {
			continue
		}
		e := found[nid]
		if e == nil {
			return nil, fmt.Errorf("%w: number %d of partition %d", errMissingEvent, nid, p.part)
		}
		if keep {
			s.cache.Add(eventKey{p.part, p.epoch, nid}, e)
		}
		out[i] = e
	}
	return out, nil
}

// eventByID returns a stored event of the room, or nil.
func (r *room) eventByID(ctx context.Context, eventID id.Event) (*roomdb.Event, error) {
	found, err := r.storedEvents(ctx, []id.Event{eventID})
	return found[eventID], err
}

// storedEvents returns those of the events that are stored and belong to the room; also those of changes that are not
// committed yet, if they are recent.
func (r *room) storedEvents(ctx context.Context, ids []id.Event) (map[id.Event]*roomdb.Event, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	found := make(map[id.Event]*roomdb.Event, len(ids))
	ask := make([]id.Event, 0, len(ids))
	for _, eventID := range ids {
		nid, ok := r.queued(eventID)
		if pl, recent := r.recent.byID[eventID]; recent && !ok {
			nid, ok = pl.e.nid, true
		}
		if !ok {
			ask = append(ask, eventID)
			continue
		}
		e, err := r.s.event(ctx, r.p, nid)
		if err != nil {
			return nil, err
		}
		found[eventID] = e
	}
	if len(ask) == 0 {
		return found, nil
	}
	stored, err := r.s.db.EventsByID(ctx, r.p.part, ask)
	if err != nil {
		return nil, err
	}
	for eventID, e := range stored {
		if e.RoomNID == r.nid {
			r.s.cache.Add(eventKey{r.p.part, r.p.epoch, e.NID}, e)
			found[eventID] = e
		}
	}
	return found, nil
}

// usable is storedEvents without events that came before their auth events: others take them for unknown until they come
// with these, and are then stored anew. authMissing has the numbers of such rows.
func (r *room) usable(ctx context.Context, ids []id.Event) (found map[id.Event]*roomdb.Event, authMissing map[id.Event]int64, err error) {
	found, err = r.storedEvents(ctx, ids)
	for eventID, e := range found {
		if e.Flags&flagAuthMissing == 0 {
			continue
		}
		delete(found, eventID)
		if authMissing == nil {
			authMissing = make(map[id.Event]int64, 1)
		}
		authMissing[eventID] = e.NID
	}
	return found, authMissing, err
}

// sameContent compares contents by their canonical form; the first is canonical.
func sameContent(old, content []byte, rules *roomversion.Rules) bool {
	canonical := canonjson.CanonicalLoose
	if rules.StrictCanonicalJSON {
		canonical = canonjson.Canonical
	}
	c, err := canonical(content)
	return err == nil && bytes.Equal(old, c)
}
