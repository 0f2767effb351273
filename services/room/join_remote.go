package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

// maxServers is how many servers are asked for one join, leave or knock.
const maxServers = 8

// joinTimeout bounds a join through other servers, however soon the client gives up: once a server has let us in we must
// store the room.
const joinTimeout = 5 * time.Minute

// joinElsewhere joins through servers that are in the room (server-server API, "Joining Rooms"). A request that comes
// again while the first is under way waits for that one. why says why we cannot do it alone.
func (s *Service) joinElsewhere(ctx context.Context, roomID id.Room, in intent, via []string, why error) (*roomv1.SendResponse, error) {
	flight := s.joins.DoChan(string(roomID)+"\x00"+string(in.sender)+"\x00"+in.cause.base, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinTimeout)
		defer cancel()
		return s.joinThrough(ctx, roomID, in, via, why)
	})
	select {
	case done := <-flight:
		resp, _ := done.Val.(*roomv1.SendResponse)
		return resp, done.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Service) joinThrough(ctx context.Context, roomID id.Room, in intent, via []string, why error) (*roomv1.SendResponse, error) {
	kept, err := s.besides(ctx, roomID, in.sender)
	if err != nil {
		return nil, err
	}
	servers, err := s.helpers(ctx, roomID, in.sender, via, kept...)
	if err != nil {
		return nil, err
	}
	var failed error
	for ctx, server := range inTurn(ctx, servers) {
		joined, err := s.joinVia(ctx, roomID, in, server)
		if err == nil {
			if len(kept) > 0 {
				if err := s.forgetBeside(ctx, roomID, in.sender, ""); err != nil { // a later invite does it then
					s.log.Warn("invites are kept that were accepted", "room", roomID, "err", err)
				}
			}
			return joined, nil
		}
		if retry(err) || ctx.Err() != nil {
			return nil, again(err)
		}
		s.log.Info("join through another server", "room", roomID, "server", server, "err", err)
		failed = worse(failed, err)
	}
	if reason, ok := merr.As(why); ok && failed == nil && errors.Is(why, errElsewhere) {
		return nil, reason
	}
	return nil, elsewhereError(failed, "Can't join remote room because no servers that are in the room have been provided.")
}

// worse keeps the error that says most: an answer about the request rather than a failure of the server.
func worse(old, err error) error {
	var was, is *fedError
	if errors.As(old, &was) && was.status < 500 && !(errors.As(err, &is) && is.status == http.StatusForbidden) {
		return old
	}
	return err
}

// elsewhereError is what the client hears when nobody could help.
func elsewhereError(err error, nobody string) error {
	var answer *fedError
	switch {
	case err == nil:
		return merr.NotFound(nobody)
	case errors.As(err, &answer) && answer.status < 500:
		return answer.matrix()
	}
	if m, ok := merr.As(err); ok {
		return m
	}
	return merr.BadGateway("No server in the room could be reached").WithCause(err)
}

// helpers are the servers that may be in the room: that of the inviter and of those whose invites are kept beside, or the one
// knocked through, those that the client names, that of the room id, those that were in the room when we left it, or are, if we are
// in it without the means to let the user in, and those that the state shown to the user names.
func (s *Service) helpers(ctx context.Context, roomID id.Room, user id.User, via []string, kept ...keptInvite) ([]id.Server, error) {
	var servers []id.Server
	add := func(server id.Server) {
		if server != "" && !s.servers.IsLocal(server) && !slices.Contains(servers, server) && len(servers) < maxServers {
			servers = append(servers, server)
		}
	}
	row, err := s.unjoinedRow(ctx, roomID, user)
	if err != nil {
		return nil, err
	}
	if row == nil {
		row = new(unjoinedRow)
	}
	if row.membership == "invite" {
		add(row.sender.Server())
		for _, b := range kept {
			add(b.server)
		}
	}
	add(row.via)
	for _, v := range via {
		if server, err := id.ParseServer(v); err == nil {
			add(server)
		}
	}
	add(roomID.Server())
	known, err := s.db.Room(ctx, roomID)
	if err != nil && !errors.Is(err, roomdb.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		were, err := s.db.Servers(ctx, known.Part, known.NID)
		if err != nil {
			return nil, err
		}
		for _, server := range were {
			add(server)
		}
	}
	for _, server := range row.shownBy() {
		add(server)
	}
	return servers, nil
}

// template is what make_join, make_leave and make_knock answer.
type template struct {
	Version string          `json:"room_version"`
	Event   json.RawMessage `json:"event"`
}

// prepare asks a server for a template and makes a signed event of it.
func (s *Service) prepare(ctx context.Context, roomID id.Room, in intent, membership string, server id.Server) (*event.PDU, error) {
	uri := fedPath("v1", "make_"+membership, string(roomID), string(in.sender))
	if membership != "leave" {
		uri += "?" + url.Values{"ver": roomversion.Supported()}.Encode()
	}
	origin := in.sender.Server()
	var t template
	if err := s.ask(ctx, request{origin: origin, dest: server, method: http.MethodGet, uri: uri}, &t); err != nil {
		return nil, err
	}
	if t.Version == "" {
		t.Version = "1"
	}
	rules, ok := roomversion.Get(t.Version)
	if !ok {
		return nil, merr.UnsupportedRoomVersion(t.Version)
	}
	if err := s.mayBeOf(ctx, roomID, rules); err != nil {
		return nil, fmt.Errorf("template of %s: %w", server, err)
	}
	d, err := draftOf(t.Event, rules, roomID, in, membership)
	if err != nil {
		return nil, fmt.Errorf("template of %s: %w", server, err)
	}
	key, err := s.servers.SigningKey(ctx, origin)
	if err != nil {
		return nil, err
	}
	pdu, err := event.Build(*d, rules, origin, key)
	if err != nil {
		return nil, badEvent(err)
	}
	return pdu, nil
}

// mayBeOf looks whether a room can be of a version that another server names.
func (s *Service) mayBeOf(ctx context.Context, roomID id.Room, rules *roomversion.Rules) error {
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return err
	}
	defer r.unlock()
	if r.proven() && r.rules.Version != rules.Version {
		return fmt.Errorf("room %s has version %s, not %s", roomID, r.rules.Version, rules.Version)
	}
	return nil
}

// draftOf completes a template (server-server API, "Joining Rooms"): what it carries is kept, for the other server may
// need it, but for what we have to say ourselves. Servers such as tuwunel want to read in it where it comes from.
func draftOf(raw []byte, rules *roomversion.Rules, roomID id.Room, in intent, membership string) (*event.Draft, error) {
	further, err := templateObject(raw, rules)
	if err != nil {
		return nil, err
	}
	t := gjson.ParseBytes(raw)
	if t.Get("type").Str != typeMember || t.Get("content.membership").Str != membership || t.Get("state_key").Str != string(in.sender) {
		return nil, errors.New("not the event that was asked for")
	}
	content, err := templateContent(further, in, membership)
	if err != nil {
		return nil, err
	}
	origin := canonjson.AppendString(nil, string(in.sender.Server()))
	key := string(in.sender)
	d := &event.Draft{RoomID: roomID, Type: typeMember, StateKey: &key, Sender: in.sender, Content: content.Bytes(),
		Depth: t.Get("depth").Int(), OriginServerTS: time.Now().UnixMilli(),
		Further: further.Without("event_id", "hashes", "redacts", "signatures", "unsigned").With("origin", origin)}
	d.PrevEvents, d.PrevHashes = referencesOf(t.Get("prev_events"), rules)
	d.AuthEvents, d.AuthHashes = referencesOf(t.Get("auth_events"), rules)
	if len(d.PrevEvents) == 0 || len(d.PrevEvents) > event.MaxPrevEvents || len(d.AuthEvents) > event.MaxAuthEvents {
		return nil, errors.New("prev_events or auth_events are missing or too many")
	}
	return d, nil
}

// templateContent is the content of a template under that of the intent. What the user is called, and who vouches for
// what is no join, is not for the other server to say.
func templateContent(template canonjson.Object, in intent, membership string) (canonjson.Object, error) {
	raw, _ := template.Get("content")
	content, err := canonjson.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	content = content.Without("displayname", "avatar_url")
	if membership != "join" {
		content = content.Without(authorisedVia)
	}
	own, err := canonjson.ParseObject(in.content)
	if err != nil {
		return nil, merr.BadJSON(err.Error())
	}
	for _, m := range own {
		content = content.With(m.Key, m.Raw)
	}
	return content, nil
}

// templateObject parses a template as strictly as the room version wants its events.
func templateObject(raw []byte, rules *roomversion.Rules) (canonjson.Object, error) {
	canonical := canonjson.CanonicalLoose
	if rules.StrictCanonicalJSON {
		canonical = canonjson.Canonical
	}
	b, err := canonical(raw)
	if err != nil {
		return nil, err
	}
	return canonjson.ParseObject(b)
}

func referencesOf(list gjson.Result, rules *roomversion.Rules) (ids []id.Event, hashes [][32]byte) {
	for _, v := range list.Array() {
		if rules.EventFormat == 3 {
			ids = append(ids, id.Event(v.Str))
			continue
		}
		ids = append(ids, id.Event(v.Get("0").Str))
		var h [32]byte
		if b, err := signing.Decode(v.Get("1.sha256").Str); err == nil {
			copy(h[:], b)
		}
		hashes = append(hashes, h)
	}
	return ids, hashes
}

// joinAnswer is what send_join answers. If members were omitted, Servers are those that were in the room before.
type joinAnswer struct {
	State   rawPDUs         `json:"state"`
	Chain   rawPDUs         `json:"auth_chain"`
	Event   json.RawMessage `json:"event"`
	Omitted bool            `json:"members_omitted"`
	Servers []string        `json:"servers_in_room"`

	via id.Server
}

func (s *Service) joinVia(ctx context.Context, roomID id.Room, in intent, server id.Server) (*roomv1.SendResponse, error) {
	pdu, err := s.prepare(ctx, roomID, in, "join", server)
	if err != nil {
		return nil, err
	}
	ctx, leave := s.withSlot(ctx)
	defer leave()
	var answer joinAnswer
	err = s.ask(ctx, request{origin: in.sender.Server(), dest: server, method: http.MethodPut, timeout: longTimeout, max: largeAnswer,
		uri: fedPath("v2", "send_join", string(roomID), string(pdu.ID)) + "?omit_members=true", body: pdu.JSON}, &answer)
	if err != nil {
		return nil, err
	}
	answer.via = server
	if len(answer.Event) > 0 {
		signed, err := event.ParseIn(answer.Event, pdu.Rules, roomID)
		if err != nil || signed.ID != pdu.ID {
			return nil, fmt.Errorf("%s answered with another join event", server)
		}
		pdu = signed
	}
	if err := s.keys.VerifyEvent(ctx, pdu); err != nil {
		return nil, fmt.Errorf("join through %s: %w", server, err)
	}
	return s.storeJoin(ctx, pdu, in, &answer)
}

// storeJoin stores a room that we have just joined: its state and auth chain as outliers, and the join as its only end. If
// members were omitted they are fetched from now on.
func (s *Service) storeJoin(ctx context.Context, join *event.PDU, in intent, answer *joinAnswer) (*roomv1.SendResponse, error) {
	roomID := join.RoomID
	states, err := s.parseAll(ctx, answer.State, join.Rules, roomID)
	if err != nil {
		return nil, err
	}
	chain, err := s.parseAll(ctx, answer.Chain, join.Rules, roomID)
	if err != nil {
		return nil, err
	}
	if err := checkCreate(states, join.Rules); err != nil {
		return nil, fmt.Errorf("state from %s: %w", answer.via, err)
	}
	if err := s.stub(ctx, roomID, join.Rules); err != nil {
		return nil, err
	}
	take := &intake{s: s, roomID: roomID, rules: join.Rules, origin: answer.via, home: in.sender.Server()}
	if _, err := take.storeOutliers(ctx, append(chain, states...)); err != nil {
		return nil, err
	}
	names := make([]id.Event, len(states))
	for i, p := range states {
		names[i] = p.ID
	}
	found, err := take.claimed(ctx, names)
	if err != nil {
		return nil, err
	}
	if answer.Omitted {
		if err := s.noteServers(ctx, roomID, answer); err != nil {
			return nil, again(err)
		}
		if s.faults.fill != nil {
			s.faults.fill("noted")
		}
	}
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if r.head.joinedLocal > 0 {
		r.unlock()
		return s.alsoJoined(ctx, take, join)
	}
	w := s.newWriter(ctx, r)
	err = w.begin(ctx, join, in, stateOf(found), answer)
	began := w.c.partial.begin
	if err == nil {
		err = w.put()
	}
	if err == nil {
		r.partial = began
	}
	r.unlock()
	if err != nil {
		return nil, err
	}
	if err := w.c.wait(ctx); err != nil {
		if pg.IsUnique(err, "event_cause") {
			return s.repeated(ctx, roomID, []intent{in})
		}
		return nil, again(err)
	}
	if began != nil {
		s.fillSoon(r.p, roomID)
	} else {
		s.preloadGraphSoon(r.p, roomID)
		s.compareJoinSoon(r.p, roomID)
	}
	return &roomv1.SendResponse{EventIds: []string{string(join.ID)}, Part: r.p.part, Pos: w.c.last}, nil
}

// alsoJoined takes in a join that went through another server although we have got into the room meanwhile.
func (s *Service) alsoJoined(ctx context.Context, take *intake, join *event.PDU) (*roomv1.SendResponse, error) {
	leave, err := take.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	v, err := take.take(ctx, join)
	if err != nil {
		return nil, again(err)
	}
	if v.flags != 0 {
		return nil, forbidden(v.refusal)
	}
	resp := &roomv1.SendResponse{EventIds: []string{string(join.ID)}, Part: v.part}
	if v.change != nil {
		if err := v.change.wait(ctx); err != nil {
			return nil, again(err)
		}
		resp.Pos = v.change.last
	}
	return resp, nil
}

// checkCreate looks for the create event of the room, which must be of the version that we were told. Nothing else proves
// what the room is: it is signed by the server that the room id names, or the room id is its hash. The signature was verified.
func checkCreate(states []*event.PDU, rules *roomversion.Rules) error {
	for _, p := range states {
		if !p.Is(typeCreate, "") {
			continue
		}
		version := gjson.GetBytes(p.Content, "room_version")
		if version.Str != rules.Version && (version.Exists() || rules.Version != "1") {
			return fmt.Errorf("room version %q, not %q", version.Str, rules.Version)
		}
		if p.ContentRedacted {
			return errors.New("the create event is not the one that was hashed")
		}
		return auth.Check(p, auth.Events{}, auth.Options{})
	}
	return errors.New("no create event")
}

// stub makes a row for a room that we were never in, so that its events have somewhere to belong to. The room's version is
// proven.
func (s *Service) stub(ctx context.Context, roomID id.Room, rules *roomversion.Rules) error {
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return err
	}
	if r.exists && r.rules.Version == rules.Version {
		r.unlock()
		return nil
	}
	if r.proven() {
		r.unlock()
		return fmt.Errorf("room %s has version %s, not %s", roomID, r.rules.Version, rules.Version)
	}
	c, err := r.become(ctx, rules)
	r.unlock()
	if err != nil {
		return err
	}
	if err := c.wait(ctx); err != nil && !pg.IsUnique(err, "") {
		return again(err)
	}
	return nil
}

// become queues the row of a room, instead of one with another version that was never proven. The room is locked.
func (r *room) become(ctx context.Context, rules *roomversion.Rules) (*change, error) {
	if err := r.waitCommitted(ctx); err != nil {
		return nil, err
	}
	w := r.s.newWriter(ctx, r)
	if r.exists {
		w.c.displaced = r.nid
	}
	r.rules, r.nid, w.c.create = rules, w.nid(), true
	if err := w.put(); err != nil {
		r.drop()
		return nil, err
	}
	r.exists = true
	return w.c, nil
}

// begin makes a join the only end of a room that we were not in, with the state that came with it. What we may have
// known of the room before is left as it was.
func (w *writer) begin(ctx context.Context, join *event.PDU, in intent, m state.Map, answer *joinAnswer) error {
	found, err := w.stored(ctx, append([]id.Event{join.ID}, join.PrevEvents...))
	if err != nil {
		return err
	}
	e := &newEvent{pdu: join, cause: in.cause.at(0), why: in.cause}
	if old := found[join.ID]; old != nil {
		e.nid, e.rowExists = old.NID, true
	} else {
		e.nid = w.nid()
	}
	var missing []id.Event
	for _, p := range join.PrevEvents {
		if ev := found[p]; ev != nil && ev.Flags&flagOutlier == 0 {
			e.prev = append(e.prev, ev.NID)
		} else {
			missing = append(missing, p)
		}
	}
	w.lack(e, missing)
	if answer.Omitted {
		cited, err := w.cited(ctx, e)
		if err != nil {
			return err
		}
		m = withMembers(m, cited)
	}
	if answer.Omitted || w.h.partial() {
		// Nothing of an earlier stay is of use: the members that it knew may be others by now, or were never known.
		w.h = head{depth: w.h.depth, firstOrd: w.h.firstOrd, notifySeq: w.h.notifySeq}
		w.c.partial.anew = !answer.Omitted // otherwise they are counted with what there is
		w.endStay()
		w.r.afters = nil // they lack members
	}
	snap, err := w.store(m)
	if err != nil {
		return err
	}
	e.sid = snap.SID()
	refusal, err := w.judge(ctx, e, m, true)
	if err != nil || refusal != nil {
		return errors.Join(err, forbidden(refusal))
	}
	w.s.remember(w.r, e)
	after, err := w.stateAfter(e, snap, m)
	if err != nil {
		return err
	}
	if is, before, err := w.s.membershipIn(ctx, w.r.p, m, join.Sender); err != nil {
		return err
	} else if before != nil && is != "join" { // which the counts of members have not seen
		e.prior, e.replaces = before.NID, before.NID
	}
	w.h.extremities = []extremity{{e.nid, join}}
	w.h.depth = max(w.h.depth, join.Depth)
	if answer.Omitted {
		return w.beginPartial(ctx, e, after, answer)
	}
	if w.c.partial.end = w.c.partial.anew; w.c.partial.end {
		if err := w.adopt(ctx, e); err != nil {
			return err
		}
	}
	if t := w.s.joinedBy(answer.via); t.asks > 0 {
		w.c.joined = toldEvent{nid: e.nid, telling: t}
	}
	w.h.fullPos = 0
	w.ready = []*state.Snapshot{after}
	w.add(e)
	if err := w.deliver(ctx, []*newEvent{e}, after.Map(), false); err != nil || w.c.partial.anew {
		return err
	}
	return w.recount(ctx, after.Map(), e)
}
