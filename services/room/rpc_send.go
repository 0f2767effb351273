package room

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/acl"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb/eventsql"
	roomv1 "hanse/proto/room/v1"
)

// maxIntents bounds the events of one request.
const maxIntents = 256

// maxRebuilds is how often a write is built again because its room had to be read anew.
const maxRebuilds = 8

// Send implements roomv1.RoomServer.
func (s *Service) Send(ctx context.Context, req *roomv1.SendRequest) (*roomv1.SendResponse, error) {
	roomID, err := parseRoom(req.RoomId)
	if err != nil {
		return nil, err
	}
	ins, err := s.intents(req.Events, req.Cause)
	if err != nil {
		return nil, err
	}
	if len(ins) == 1 && ins[0].typ == typeMember && ins[0].stateKey != nil {
		return s.sendMembership(ctx, roomID, ins[0])
	}
	return s.sendAll(ctx, roomID, ins)
}

// sendAll appends intents, all or none.
func (s *Service) sendAll(ctx context.Context, roomID id.Room, ins []intent) (*roomv1.SendResponse, error) {
	return s.write(ctx, roomID, ins, func(ctx context.Context, w *writer) ([]id.Event, error) {
		ids := make([]id.Event, len(ins))
		for i, in := range ins {
			eventID, err := w.send(ctx, in)
			if err != nil {
				return nil, err
			}
			ids[i] = eventID
		}
		return ids, nil
	})
}

// write drafts a change in a room that we are in, queues it and waits for its commit. The request that the intents
// stem from has its effect once, however often it comes.
func (s *Service) write(ctx context.Context, roomID id.Room, ins []intent, draft func(context.Context, *writer) ([]id.Event, error)) (*roomv1.SendResponse, error) {
	for range maxRebuilds {
		resp, err := s.writeOnce(ctx, roomID, ins, draft)
		switch {
		case errors.Is(err, errOtherEndpoint):
			for i := range ins {
				ins[i].cause = ins[i].cause.elsewhere(ins[0].endpoint())
			}
		case !errors.Is(err, errStale):
			return resp, err
		}
	}
	return nil, errUnavailable
}

func (s *Service) writeOnce(ctx context.Context, roomID id.Room, ins []intent, draft func(context.Context, *writer) ([]id.Event, error)) (*roomv1.SendResponse, error) {
	r, err := s.roomFor(ctx, roomID, ins)
	if err != nil {
		return nil, err
	}
	why := ins[0].cause.base
	if d := r.causes.by[why]; d != nil && why != "" {
		r.unlock()
		if ins[0].cause.txn != "" && d.endpoint != ins[0].endpoint() {
			return nil, errOtherEndpoint
		}
		return d.answer(ctx, r)
	}
	if why != "" && s.repeats.Contains(ins[0].cause.user) {
		if known, err := s.byCause(ctx, r, []string{why}); err != nil || len(known) > 0 {
			r.unlock()
			if err != nil {
				return nil, err
			}
			return s.repeated(ctx, roomID, ins)
		}
	}
	w := s.newWriter(ctx, r)
	d := &done{endpoint: ins[0].endpoint()}
	if d.ids, err = draft(ctx, w); err == nil && len(w.c.events) > 0 {
		if err = w.put(); err == nil {
			d.change = w.c
		}
	}
	if err == nil && why != "" {
		r.causes.add(why, d)
	}
	r.unlock()
	if merr.HasCode(err, merr.CodeDuplicateAnnotation) && why != "" {
		return s.unlessRepeated(ctx, roomID, ins, err)
	}
	if err != nil {
		return nil, err
	}
	resp, err := d.answer(ctx, r)
	if pg.IsUnique(err, "event_cause") {
		// The room had to be dropped for this. Should the user do it again, it is looked up before.
		s.repeats.Add(ins[0].cause.user, struct{}{})
		return s.repeated(ctx, roomID, ins)
	}
	return resp, err
}

// roomFor is joinedRoom for who wants to send something; what changes the state may have to wait (resolve_unlocked.go).
func (s *Service) roomFor(ctx context.Context, roomID id.Room, ins []intent) (*room, error) {
	changes := slices.ContainsFunc(ins, func(in intent) bool { return in.stateKey != nil })
	for {
		r, err := s.joinedRoom(ctx, roomID)
		if err != nil {
			return nil, err
		}
		still := r.still.Load()
		if still == nil || !changes {
			return r, nil
		}
		r.unlock()
		select {
		case <-*still:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// answer waits for the request's commit.
func (d *done) answer(ctx context.Context, r *room) (*roomv1.SendResponse, error) {
	resp := &roomv1.SendResponse{Part: r.p.part, EventIds: texts(d.ids)}
	if d.change == nil {
		resp.Pos = r.lastPos.Load()
		return resp, nil
	}
	if err := d.change.wait(ctx); err != nil {
		return nil, err
	}
	resp.Pos = d.change.last
	return resp, nil
}

// repeated answers a request whose first try was written and then forgotten here. Of its events, those that changed
// nothing have no cause; they are the state that the room has.
func (s *Service) repeated(ctx context.Context, roomID id.Room, ins []intent) (*roomv1.SendResponse, error) {
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	keys := make([]string, len(ins))
	for i := range ins {
		keys[i] = ins[0].cause.at(i)
	}
	written, err := s.byCause(ctx, r, keys)
	if err != nil {
		return nil, err
	}
	if ins[0].cause.txn != "" && len(written) > 0 {
		if same, err := s.madeBy(ctx, r, &ins[0], written[0].nid); err != nil || !same {
			return nil, cmp.Or(err, errOtherEndpoint)
		}
	}
	w := s.newWriter(ctx, r)
	resp := &roomv1.SendResponse{Part: r.p.part}
	for _, e := range written {
		resp.Pos = max(resp.Pos, e.ord)
	}
	for _, in := range ins {
		if in.stateKey != nil && len(written) < len(ins) {
			same, err := w.unchanged(ctx, in)
			if err != nil {
				return nil, err
			}
			if same != "" && (len(written) == 0 || written[0].id != same) {
				resp.EventIds = append(resp.EventIds, string(same))
				continue
			}
		}
		if len(written) == 0 {
			return nil, merr.Unknown("the request was made before, but not all of its events are known")
		}
		resp.EventIds = append(resp.EventIds, string(written[0].id))
		written = written[1:]
	}
	return resp, nil
}

// unlessRepeated answers a request that was refused for what its own first try wrote.
func (s *Service) unlessRepeated(ctx context.Context, roomID id.Room, ins []intent, refusal error) (*roomv1.SendResponse, error) {
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	made, err := s.byCause(ctx, r, []string{ins[0].cause.base})
	r.unlock()
	if err != nil {
		return nil, err
	}
	if len(made) == 0 {
		return nil, refusal
	}
	return s.repeated(ctx, roomID, ins)
}

// caused is an event that a request made.
type caused struct {
	id       id.Event
	nid, ord int64
}

// byCause returns the events that a request made, in order.
func (s *Service) byCause(ctx context.Context, r *room, keys []string) (made []caused, err error) {
	rows, err := s.shards.For(r.p.part).Query(ctx, eventsql.Caused, int32(r.p.part), r.nid, keys)
	if err != nil {
		return nil, fmt.Errorf("look for repeated request: %w", err)
	}
	defer rows.Close()
	found := make(map[string]caused, len(keys))
	for rows.Next() {
		var key string
		var e caused
		if err := rows.Scan(&key, &e.nid, &e.id, &e.ord); err != nil {
			return nil, fmt.Errorf("look for repeated request: %w", err)
		}
		found[key] = e
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look for repeated request: %w", err)
	}
	for _, key := range keys {
		if e, ok := found[key]; ok {
			made = append(made, e)
		}
	}
	return made, nil
}

// intents decodes and checks what a caller wants to send.
func (s *Service) intents(events []*roomv1.EventIntent, why *roomv1.Cause) ([]intent, error) {
	if len(events) == 0 || len(events) > maxIntents {
		return nil, merr.InvalidParam(fmt.Sprintf("%d events in one request", len(events)))
	}
	c, err := causeOf(why)
	if err != nil {
		return nil, err
	}
	ins := make([]intent, len(events))
	for i, e := range events {
		if ins[i], err = s.intent(e, c); err != nil {
			return nil, err
		}
		if len(events) > 1 && s.invitesElsewhere(ins[i]) {
			return nil, merr.InvalidParam("An invite of a user of another server goes alone: that server has to sign it")
		}
	}
	return ins, nil
}

func (s *Service) invitesElsewhere(in intent) bool {
	return in.typ == typeMember && in.stateKey != nil && !s.localUser(id.User(*in.stateKey)) &&
		gjson.GetBytes(in.content, "membership").Str == "invite"
}

func (s *Service) intent(e *roomv1.EventIntent, why cause) (intent, error) {
	sender, err := s.localSender(e.Sender)
	if err != nil {
		return intent{}, err
	}
	if e.Type == "" {
		return intent{}, merr.InvalidParam("The event has no type")
	}
	if !storableText(e.Type, e.GetStateKey(), e.Redacts) {
		return intent{}, merr.InvalidParam(errUnstorable.Error())
	}
	if e.Type == typeServerACL && e.StateKey != nil && *e.StateKey == "" && !acl.Parse(e.Content).Allows(sender.Server()) {
		return intent{}, merr.New(http.StatusBadRequest, merr.CodeUnknown, "Can't create an ACL event that denies the local server")
	}
	return intent{typ: e.Type, stateKey: e.StateKey, content: e.Content, sender: sender, redacts: id.Event(e.Redacts),
		ts: e.OriginServerTs, cause: why}, nil
}

func (s *Service) localSender(text string) (id.User, error) {
	user, err := id.ParseUser(text)
	if err != nil {
		return "", merr.InvalidParam(err.Error())
	}
	if !s.localUser(user) {
		return "", merr.Forbidden("The sender is a user of another server")
	}
	return user, nil
}

func parseRoom(text string) (id.Room, error) {
	room, err := id.ParseRoom(text)
	if err != nil {
		return "", merr.InvalidParam(err.Error())
	}
	return room, nil
}

func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, t := range in {
		out[i] = string(t)
	}
	return out
}

// SetPublished implements roomv1.RoomServer.
func (s *Service) SetPublished(ctx context.Context, req *roomv1.SetPublishedRequest) (*roomv1.SetPublishedResponse, error) {
	roomID, err := parseRoom(req.RoomId)
	if err != nil {
		return nil, err
	}
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	c := newChange(ctx, r)
	c.publish = &req.Published
	err = r.put(c, r.head)
	r.unlock()
	if err == nil {
		err = c.wait(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &roomv1.SetPublishedResponse{}, nil
}
