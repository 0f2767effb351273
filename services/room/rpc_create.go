package room

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"

	"google.golang.org/grpc"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	roomv1 "hanse/proto/room/v1"
)

// Create implements roomv1.RoomServer: it makes the create event, which tells the room's id and with it the partition,
// and passes the rest on to the owner of that.
func (s *Service) Create(ctx context.Context, req *roomv1.CreateRequest) (*roomv1.CreateResponse, error) {
	version := req.RoomVersion
	if version == "" {
		version = s.cfg.DefaultVersion
	}
	rules, ok := roomversion.Get(version)
	if !ok {
		return nil, merr.UnsupportedRoomVersion(version)
	}
	creator, err := s.localSender(req.Creator)
	if err != nil {
		return nil, err
	}
	why, err := causeOf(req.Cause)
	if err != nil {
		return nil, err
	}
	if why.base == "" || req.OriginServerTs <= 0 {
		return nil, merr.InvalidParam("The request has no key or no time")
	}
	// From version 12 on two rooms of one creator would be the same if they began in the same millisecond: the later one
	// began a moment earlier, then. It is the key that says how much earlier: a request that comes again, as its caller
	// does not know what became of it, must find the room that it made.
	at, earlier := req.OriginServerTs, rand.New(rand.NewChaCha8(sha256.Sum256([]byte(why.base))))
	for range maxRebuilds {
		create, err := s.createEvent(ctx, creator, rules, req, why, at)
		if err != nil {
			return nil, err
		}
		at = req.OriginServerTs - earlier.Int64N(2000)
		resp, err := s.createAt(ctx, create, req)
		if !merr.HasCode(err, merr.CodeRoomInUse) || !rules.RoomIDIsCreateHash {
			return resp, err
		}
	}
	return nil, merr.RoomInUse()
}

// createAt has the owner of the new room's partition do the rest.
func (s *Service) createAt(ctx context.Context, create *event.PDU, req *roomv1.CreateRequest) (*roomv1.CreateResponse, error) {
	found := &roomv1.FoundRequest{RoomId: string(create.RoomID), RoomVersion: create.Rules.Version, CreateEvent: create.JSON,
		Events: req.Events, Published: req.Published, Cause: req.Cause}
	part := partition.Of(string(create.RoomID))
	if p := s.leases[part].Load(); p != nil && !p.lost.Load() {
		resp, err := s.Found(ctx, found)
		if _, elsewhere := partition.AsNotOwner(err); !elsewhere && !errors.Is(err, errUnavailable) {
			return resp, err
		}
	}
	var resp *roomv1.CreateResponse
	err := s.router.Call(ctx, part, func(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
		resp, err = roomv1.NewRoomClient(conn).Found(ctx, found)
		return err
	})
	return resp, err
}

// createEvent builds the signed create event. Of a request that comes again with the same key the same event comes
// out, and so the same room's id.
func (s *Service) createEvent(ctx context.Context, creator id.User, rules *roomversion.Rules, req *roomv1.CreateRequest, why cause, at int64) (*event.PDU, error) {
	content, err := contentWith(req.CreateContent, rules)
	if err != nil {
		return nil, err
	}
	content = content.Without("creator", "room_version").With("room_version", canonjson.AppendString(nil, rules.Version))
	if !rules.ImplicitCreator {
		content = content.With("creator", canonjson.AppendString(nil, string(creator)))
	}
	key, err := s.servers.SigningKey(ctx, creator.Server())
	if err != nil {
		return nil, fmt.Errorf("signing key of %s: %w", creator.Server(), err)
	}
	empty := ""
	d := event.Draft{Type: typeCreate, StateKey: &empty, Sender: creator, Content: content.Bytes(), Depth: 1,
		OriginServerTS: at}
	if !rules.RoomIDIsCreateHash {
		d.RoomID = newRoomID(creator, why)
	}
	pdu, err := event.Build(d, rules, creator.Server(), key)
	if err != nil {
		return nil, badEvent(err)
	}
	if err := auth.Check(pdu, auth.Events{}, auth.Options{}); err != nil {
		return nil, forbidden(err)
	}
	return pdu, nil
}

// newRoomID derives the opaque part from the request's random key.
func newRoomID(creator id.User, why cause) id.Room {
	sum := sha256.Sum256([]byte("hanse room id\x00" + string(creator) + "\x00" + why.base))
	return id.Room("!" + base64.RawURLEncoding.EncodeToString(sum[:15]) + ":" + string(creator.Server()))
}

// Found implements roomv1.RoomServer.
func (s *Service) Found(ctx context.Context, req *roomv1.FoundRequest) (*roomv1.CreateResponse, error) {
	rules, ok := roomversion.Get(req.RoomVersion)
	if !ok {
		return nil, merr.UnsupportedRoomVersion(req.RoomVersion)
	}
	create, err := event.Parse(req.CreateEvent, rules)
	if err != nil {
		return nil, badEvent(err)
	}
	if create.RoomID != id.Room(req.RoomId) || !create.Is(typeCreate, "") || !s.localUser(create.Sender) {
		return nil, merr.InvalidParam("The create event is of another room")
	}
	why, err := causeOf(req.Cause)
	if err != nil {
		return nil, err
	}
	ins := make([]intent, len(req.Events))
	for i, e := range req.Events {
		if ins[i], err = s.intent(e, why); err != nil {
			return nil, err
		}
		if s.invitesElsewhere(ins[i]) {
			return nil, merr.InvalidParam("Users of other servers are invited when the room is there")
		}
	}
	if len(ins) == 0 || ins[0].typ != typeMember || ins[0].stateKey == nil || *ins[0].stateKey != string(create.Sender) {
		self := string(create.Sender)
		ins = append([]intent{{typ: typeMember, stateKey: &self, content: []byte(`{"membership":"join"}`), sender: create.Sender, cause: why}}, ins...)
	}
	for range maxRebuilds {
		resp, err := s.found(ctx, create, ins, req.Published, why)
		if !errors.Is(err, errStale) {
			return resp, err
		}
	}
	return nil, errUnavailable
}

func (s *Service) found(ctx context.Context, create *event.PDU, ins []intent, published bool, why cause) (*roomv1.CreateResponse, error) {
	r, err := s.lockRoom(ctx, create.RoomID)
	if err != nil {
		return nil, err
	}
	if r.exists {
		defer r.unlock()
		return r.founded(ctx, why)
	}
	r.rules = create.Rules
	w := s.newWriter(ctx, r)
	ids, err := w.found(ctx, create, ins, why)
	if err == nil {
		w.c.create, w.c.publish = true, &published
		err = w.put()
	}
	if err != nil {
		r.drop()
		r.unlock()
		return nil, err
	}
	r.exists = true
	d := &done{change: w.c, ids: ids}
	if why.base != "" {
		r.causes.add(why.base, d)
	}
	r.unlock()
	if err := w.c.wait(ctx); err != nil {
		if pg.IsUnique(err, "") {
			return nil, errStale // it exists by now: look
		}
		return nil, err
	}
	return &roomv1.CreateResponse{RoomId: string(r.id), EventIds: texts(ids)}, nil
}

// found builds the first events of a room.
func (w *writer) found(ctx context.Context, create *event.PDU, ins []intent, why cause) ([]id.Event, error) {
	w.r.nid = w.nid()
	e := &newEvent{pdu: create, nid: w.nid(), cause: why.at(0), why: why}
	if err := w.extend(ctx, e, base{}); err != nil {
		return nil, err
	}
	ids := []id.Event{create.ID}
	for _, in := range ins {
		eventID, err := w.send(ctx, in)
		if err != nil {
			return nil, err
		}
		ids = append(ids, eventID)
	}
	return ids, nil
}

// founded answers a request for a room that exists: if the same request made it, all is well.
func (r *room) founded(ctx context.Context, why cause) (*roomv1.CreateResponse, error) {
	resp := &roomv1.CreateResponse{RoomId: string(r.id)}
	if why.base == "" {
		return nil, merr.RoomInUse()
	}
	if d := r.causes.by[why.base]; d != nil {
		if d.change != nil {
			if err := d.change.wait(ctx); err != nil {
				return nil, err
			}
		}
		resp.EventIds = texts(d.ids)
		return resp, nil
	}
	keys := make([]string, maxIntents)
	for i := range keys {
		keys[i] = why.at(i)
	}
	made, err := r.s.byCause(ctx, r, keys)
	if err != nil {
		return nil, err
	}
	if len(made) == 0 {
		return nil, merr.RoomInUse()
	}
	for _, e := range made {
		resp.EventIds = append(resp.EventIds, string(e.id))
	}
	return resp, nil
}

// contentWith parses content that a caller gave; none is {}.
func contentWith(content []byte, rules *roomversion.Rules) (canonjson.Object, error) {
	if len(content) == 0 {
		return canonjson.Object{}, nil
	}
	canonical := canonjson.CanonicalLoose
	if rules.StrictCanonicalJSON {
		canonical = canonjson.Canonical
	}
	b, err := canonical(content)
	if err == nil {
		var o canonjson.Object
		if o, err = canonjson.ParseObject(b); err == nil {
			return o, nil
		}
	}
	return nil, merr.BadJSON("The content is not canonical JSON: " + err.Error())
}

// badEvent makes a Matrix error of what is wrong with an event.
func badEvent(err error) error {
	switch {
	case errors.Is(err, event.ErrTooLarge):
		return merr.TooLarge("The event is too large")
	case errors.Is(err, event.ErrInvalid):
		return merr.BadJSON(err.Error())
	}
	return err
}
