package sync

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/cache"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	"hanse/services/sync/sliding"
)

// slide is one request of sliding sync (MSC4186).
type slide struct {
	asker
	req      *sliding.Request
	id       userdb.SlidingConn
	held     *heldConn     // the connection as this worker remembers it
	conn     *sliding.Conn // as of the client's position; nil if it begins
	pos      string
	timeout  time.Duration
	presence string
	ack      int64 // position of the user's stream up to which the device has got its to-device messages
}

// told returns what the client knows at its position.
func (p *slide) told() *sliding.State {
	if p.conn == nil {
		return new(sliding.State)
	}
	return p.conn.State
}

// slideRoutes registers both encodings.
func (s *Service) slideRoutes(r *httpx.Router) {
	unstable := r.Group("/_matrix/client/unstable/org.matrix.simplified_msc3575").With(httpx.PlainText, s.sessions.Required, s.limited)
	unstable.Handle("POST /sync", func(w http.ResponseWriter, r *http.Request) error { return s.handleSlide(w, r, false) }, httpx.LongPoll())
	stable := r.Group("/_matrix/client/v4").With(httpx.PlainText, s.sessions.Required, s.limited)
	stable.Handle("POST /sync", func(w http.ResponseWriter, r *http.Request) error { return s.handleSlide(w, r, true) }, httpx.LongPoll())
}

func (s *Service) handleSlide(w http.ResponseWriter, r *http.Request, stable bool) error {
	ctx := r.Context()
	p, err := s.parseSlide(r, stable)
	if err != nil {
		return err
	}
	if err := s.users.get(ctx, &p.asker); err != nil {
		return err
	}
	defer s.users.done(&p.asker)
	if err := s.findConn(ctx, p); err != nil {
		return err
	}
	if err := s.checkToken(ctx, &p.asker); err != nil {
		if errors.Is(err, errFuture) || errors.Is(err, errPartition) {
			return unknownPos()
		}
		return err
	}
	if err := s.ackToDevice(ctx, p); err != nil {
		return err
	}
	defer s.presence.begin(ctx, p.who.User, p.device, p.presence)()
	body, err := s.slideAlong(ctx, p)
	if err != nil {
		return err
	}
	err = httpx.Raw(w, http.StatusOK, *body)
	recycle(body)
	s.observe(ctx, &p.asker)
	return err
}

// unknownPos says that a position is none of the device's, or was forgotten: the client begins anew.
func unknownPos() error {
	return merr.New(http.StatusBadRequest, merr.CodeUnknownPos, "This position is unknown. Begin a new connection, without pos.")
}

func (s *Service) parseSlide(r *http.Request, stable bool) (*slide, error) {
	who := session.From(r)
	body, err := httpx.Body(r)
	if err != nil {
		return nil, err
	}
	p := &slide{asker: newAsker(who)}
	if p.req, err = s.requests.parse(body, stable); err != nil {
		return nil, err
	}
	httpx.KeepBody(r)() // it is not needed any more: who waits holds nothing
	p.pos, p.presence = p.req.Pos, p.req.Presence
	ms := p.req.Timeout
	if !stable {
		q := r.URL.Query()
		p.pos, p.presence = q.Get("pos"), q.Get("set_presence")
		if t := q.Get("timeout"); t != "" {
			if ms, err = strconv.ParseInt(t, 10, 64); err != nil {
				return nil, merr.InvalidParam("timeout is not a number of milliseconds")
			}
		}
	}
	if ms < 0 {
		return nil, merr.InvalidParam("timeout is negative")
	}
	p.timeout = time.Duration(min(ms, int64(maxTimeout/time.Millisecond))) * time.Millisecond
	switch p.presence {
	case "", "online", "offline", "unavailable":
	default:
		return nil, merr.InvalidParam("set_presence is not one of offline, online, unavailable")
	}
	p.id = userdb.SlidingConn{User: who.User, Device: who.Device, ID: p.req.Conn}
	p.asker.conn, p.sinceText = "\x00"+p.req.Conn, p.pos
	return p, nil
}

// slideAlong answers as soon as there is something, or when the time is over.
func (s *Service) slideAlong(ctx context.Context, p *slide) (*[]byte, error) {
	deadline := time.Now().Add(p.timeout)
	if p.timeout == 0 || p.since == nil {
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
		a, err := s.slideAnswer(ctx, p)
		if err != nil {
			return nil, err
		}
		left := time.Until(deadline)
		if a.news || p.since == nil || left <= 0 || s.draining() {
			pos, err := s.nextPos(ctx, p, a)
			if err != nil {
				return nil, err
			}
			return a.encode(pos, p.req), nil
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

// slideAnswer is what a request of sliding sync gets.
type slideAnswer struct {
	user  id.User
	next  nextToken
	lists []listCount
	rooms []roomAnswer
	ext   extensions

	head    sliding.Head // with the configs that rooms are told by
	given   []uint16     // which of them the answer uses
	changes sliding.Changes
	told    map[id.Room][]id.Event // of timelines, if receipts are asked for
	hidden  int                    // how many rooms that the client knows have changed where it does not look
	news    bool
	partial bool // a room was left out that is told later, or what there is does not fit into one answer
}

type listCount struct {
	name  string
	count int
}

// slideAnswer computes what has happened since the client's position.
func (s *Service) slideAnswer(ctx context.Context, p *slide) (*slideAnswer, error) {
	m, err := s.moment(ctx, p.user)
	if err != nil {
		return nil, err
	}
	o, err := s.orderOf(ctx, p.user, m)
	if err != nil {
		return nil, err
	}
	told := p.told()
	a := &slideAnswer{user: p.who.User, next: m.token(), head: told.Head}
	if shape := p.req.Shape(); p.conn == nil || told.Shape != shape {
		a.head.Shape = shape
		a.setHead(&a.head)
		a.news = true
	}
	data, err := s.dataSince(ctx, p, m)
	if err != nil {
		return nil, err
	}
	x, err := s.sightOf(ctx, p, o, a)
	if err != nil {
		return nil, err
	}
	todo, err := s.roomsToTell(ctx, p, m, x, a, data)
	if err != nil {
		return nil, err
	}
	if err := s.tellRooms(ctx, p, m, a, todo); err != nil {
		return nil, err
	}
	if err := s.addExtensions(ctx, p, m, x, a, todo, data); err != nil {
		return nil, err
	}
	if a.changes.Empty() && !a.partial && p.held != nil {
		p.held.settle(p, m, o, told)
	}
	return a, nil
}

// setHead notes another head, for the connection.
func (a *slideAnswer) setHead(h *sliding.Head) {
	a.head = *h
	head := a.head
	a.changes.Head = &head
}

// requests are the requests that clients repeat word by word.
type requests struct {
	cache *cache.Cache[string, *sliding.Request]
}

func newRequests(reg prometheus.Registerer) *requests {
	return &requests{cache.New(cache.Config[string, *sliding.Request]{
		Name: "sliding_request", Budget: 8 << 20, Metrics: reg,
		Weigh: func(text string, r *sliding.Request) int64 { return int64(len(text) + r.Size()) },
	})}
}

// parse returns the request that a body is.
func (q *requests) parse(body []byte, stable bool) (*sliding.Request, error) {
	key := "u" + string(body)
	if stable {
		key = "s" + string(body)
	}
	if r, ok := q.cache.Get(key); ok {
		return r, nil
	}
	if len(body) == 0 {
		body = []byte("{}")
	}
	if err := httpx.CheckJSON(body); err != nil {
		return nil, err
	}
	r, err := sliding.Parse(body, stable)
	if err == nil && !stable { // one of /v4/sync has the position in it, and does not come again
		q.cache.Add(key, r)
	}
	return r, err
}

// sight is which rooms a request asks for.
type sight struct {
	p     *slide
	o     *order
	lists []shown
	subs  map[id.Room]*sliding.Want
	sets  map[set]*seen
}

// shown is a list of the request, and the rooms that pass its filter.
type shown struct {
	*sliding.List
	rooms []*place
}

// set is which lists ask for a room.
type set [2]uint64

// seen is what is asked for of rooms.
type seen struct {
	sliding.Wants
	config sliding.Config
}

// sightOf finds out what a request asks for.
func (s *Service) sightOf(ctx context.Context, p *slide, o *order, a *slideAnswer) (*sight, error) {
	x := &sight{p: p, o: o, sets: make(map[set]*seen)}
	for i := range p.req.Lists {
		l := &p.req.Lists[i]
		rooms, err := s.filter(ctx, p.user, o, l.Filters)
		if err != nil {
			return nil, err
		}
		x.lists = append(x.lists, shown{l, rooms})
		a.lists = append(a.lists, listCount{l.Name, len(rooms)})
	}
	if len(p.req.Rooms) > 0 {
		x.subs = make(map[id.Room]*sliding.Want, len(p.req.Rooms))
		for i := range p.req.Rooms {
			x.subs[p.req.Rooms[i].Room] = &p.req.Rooms[i].Want
		}
	}
	return x, nil
}

// of returns what is asked for of a room; nil if it is nothing. p is its place, or nil if it has none.
func (x *sight) of(room id.Room, p *place) *seen {
	var in set
	for i := range x.lists {
		l := &x.lists[i]
		if p == nil {
			break
		}
		if l.All && l.Filters == nil {
			in[i/64] |= 1 << (i % 64)
			continue
		}
		if at, ok := slices.BinarySearchFunc(l.rooms, p, byActivity); ok && l.Within(at) {
			in[i/64] |= 1 << (i % 64)
		}
	}
	sub := x.subs[room]
	if in == (set{}) && sub == nil {
		return nil
	}
	if sub == nil {
		if known := x.sets[in]; known != nil {
			return known
		}
	}
	v := new(seen)
	for i := range x.lists {
		if in[i/64]&(1<<(i%64)) != 0 {
			v.Add(&x.lists[i].Want, x.lists[i].Name)
		}
	}
	if sub != nil {
		v.Add(sub, "")
	} else {
		x.sets[in] = v
	}
	v.config = v.Wants.Config()
	return v
}

// each calls fn for each room that is asked for and is one of the user's, until it returns false.
func (x *sight) each(fn func(p *place) bool) {
	done := make(map[*place]struct{})
	once := func(p *place) bool {
		if _, ok := done[p]; ok {
			return true
		}
		if len(x.lists)+len(x.subs) > 1 {
			done[p] = struct{}{}
		}
		return fn(p)
	}
	for _, sub := range x.p.req.Rooms {
		if p := x.o.of(sub.Room); p != nil && !once(p) {
			return
		}
	}
	for i := range x.lists {
		l := &x.lists[i]
		for at, p := range l.rooms[:l.End(len(l.rooms))] {
			if l.Within(at) && !once(p) {
				return
			}
		}
	}
}

// sidAt returns the state that a room had at a moment.
func (s *Service) sidAt(ctx context.Context, row *roomdb.Room, m *moment) (int64, error) {
	if row.LastPos <= m.at(row.Part) {
		return row.SID, nil
	}
	span, err := s.rooms.Span(ctx, row.Part, row.NID, 0, m.at(row.Part)) // the room went on since the moment
	if err != nil || span.After == 0 {
		return row.SID, err
	}
	return span.After, nil
}
