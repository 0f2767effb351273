package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tidwall/gjson"

	"hanse/pkg/bus"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/invitefilter"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/notify"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// errGivenUp says that a log partition is not this worker's any more.
var errGivenUp = errors.New("the partition was given up")

// queued collects what a run of log entries leads to.
type queued struct {
	rows   []row
	badges []id.User
}

// row is an event of which a user is to be notified.
type row struct {
	user     id.User
	key      roomdb.RoomKey
	room     string
	event    string
	eventNID int64
	pos      int64
	tweaks   []byte
}

// queueAtOnce bounds the rows of one statement, and, but for those of one entry, what is collected before it is stored.
const queueAtOnce = 20_000

// plan evaluates a run of log entries, and stores whom to notify of what. It is repeated if anything fails: entries that are done are
// left out then, and rows that are there already stay as they are.
func (s *Service) plan(ctx context.Context, d bus.Delivery) (func(follow.Hand[*box]), error) {
	b, ours := s.follow.Get(d.Part)
	if !ours {
		return nil, errGivenUp
	}
	done := b.Reached(d.Part)
	var q queued
	for i, e := range d.Entries {
		if e.Pos <= done {
			continue
		}
		if err := s.planEntry(ctx, roomdb.RoomKey{Part: d.Part, NID: e.RoomNid}, e, &q); err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Pos, err)
		}
		if i < len(d.Entries)-1 && len(q.rows)+len(q.badges) < queueAtOnce {
			continue
		}
		if err := s.queue(ctx, &q); err != nil {
			return nil, err
		}
		if len(q.rows) > 0 {
			if err := b.Reach(ctx, d.Part, e.Pos); err != nil { // or the next owner queues it again
				return nil, err
			}
		}
		q = queued{}
	}
	return nil, nil
}

func (s *Service) planEntry(ctx context.Context, key roomdb.RoomKey, e *logv1.Entry, q *queued) error {
	switch b := e.Body.(type) {
	case *logv1.Entry_Event:
		if err := s.moves(ctx, key, b.Event, q); err != nil {
			return err
		}
		return s.planEvent(ctx, key, e, b.Event, q)
	case *logv1.Entry_Filled:
		s.audience.forgetRoom(key) // its members were not known until now
	case *logv1.Entry_Receipt:
		if r := b.Receipt; s.isLocal(id.User(r.UserId).Server()) && (r.Type == "m.read" || r.Type == "m.read.private") {
			q.badges = append(q.badges, id.User(r.UserId))
		}
	}
	return nil
}

// moves keeps what is known of a room up to date. Who is not in the room any more has nothing unread in it.
func (s *Service) moves(ctx context.Context, key roomdb.RoomKey, ev *logv1.Event, q *queued) error {
	if ev.StateKey != nil {
		switch ev.Type {
		case "m.room.member", "m.room.power_levels":
			s.audience.changed(key)
		}
	}
	move := func(user id.User, membership, before string) error {
		if !s.isLocal(user.Server()) || membership == before {
			return nil
		}
		if membership != "join" && (before == "join" || before == "invite") {
			q.badges = append(q.badges, user)
		}
		return s.audience.moved(ctx, key, user, membership == "join")
	}
	if ev.Membership != "" && ev.StateKey != nil && !ev.Overruled {
		if err := move(id.User(*ev.StateKey), ev.Membership, ev.PrevMembership); err != nil {
			return err
		}
	}
	for _, m := range ev.Moved {
		if err := move(id.User(m.UserId), m.Membership, m.PrevMembership); err != nil {
			return err
		}
	}
	return nil
}

// planEvent finds out whom an event notifies, of those who have pushers.
func (s *Service) planEvent(ctx context.Context, key roomdb.RoomKey, e *logv1.Entry, ev *logv1.Event, q *queued) error {
	crowd, err := s.audience.of(ctx, key, ev.CurrentAfter)
	if err != nil {
		return err
	}
	if ev.Redacts != "" { // what it redacts may have been unread
		q.badges = append(q.badges, crowd.users...)
	}
	invited, err := s.invited(ctx, ev)
	if err != nil || len(crowd.users) == 0 && invited == "" || ev.Redacted || time.Since(time.UnixMilli(ev.OriginServerTs)) > s.cfg.GiveUp {
		return err
	}
	rules, ok := roomversion.Get(ev.RoomVersion)
	if !ok {
		return bus.Unprocessable(fmt.Errorf("room version %q", ev.RoomVersion))
	}
	pdu, err := event.ParseTrusted(ev.Json, id.Event(ev.EventId), rules)
	if err != nil {
		return bus.Unprocessable(err)
	}
	pdu.RoomID = id.Room(e.RoomId)
	j := &judge{s: s, pdu: pdu, view: pushrule.NewView(pdu), tell: func(user id.User, o pushrule.Outcome) {
		q.rows = append(q.rows, row{user: user, key: key, room: e.RoomId, event: ev.EventId, eventNID: ev.Nid, pos: e.Pos, tweaks: tweaksOf(o)})
	}}
	if invited != "" {
		if err := j.invited(ctx, key, invited); err != nil {
			return err
		}
	}
	if len(crowd.users) == 0 {
		return nil
	}
	return j.crowd(ctx, key, crowd)
}

// invited returns the local user whom an event invites, if they have a pusher.
func (s *Service) invited(ctx context.Context, ev *logv1.Event) (id.User, error) {
	if ev.Membership != "invite" || ev.StateKey == nil || ev.Overruled || !s.isLocal(id.User(*ev.StateKey).Server()) {
		return "", nil
	}
	with, err := s.audience.withPushers(ctx, []id.User{id.User(*ev.StateKey)})
	if err != nil || len(with) == 0 {
		return "", err
	}
	return with[0], nil
}

// judge evaluates one event.
type judge struct {
	s    *Service
	pdu  *event.PDU
	view *pushrule.View
	room *notify.Room
	// tell takes whom the event notifies.
	tell func(id.User, pushrule.Outcome)
}

func (j *judge) one(r *notify.Rules) {
	if r.User == j.pdu.Sender {
		return
	}
	if o := r.Judge(j.view, j.pdu, j.room); o.Notify {
		j.tell(r.User, o)
	}
}

// invited evaluates an invite for the invited user, unless that hides invites of the sender (MSC4155).
func (j *judge) invited(ctx context.Context, key roomdb.RoomKey, user id.User) error {
	shown, err := j.mayInvite(ctx, user)
	if err != nil || !shown {
		return err
	}
	if j.room, err = notify.LoadRoom(ctx, j.s.rooms, key, user); err != nil {
		return err
	}
	rules, err := j.s.audience.rulesOf(ctx, []id.User{user})
	if err != nil {
		return err
	}
	j.one(rules[user])
	return nil
}

// mayInvite says whether a user wants to know of invites by the sender (MSC4155).
func (j *judge) mayInvite(ctx context.Context, user id.User) (bool, error) {
	data, err := j.s.users.AccountDataOf(ctx, user, invitefilter.Types...)
	return err == nil && invitefilter.Parse(data).Of(j.pdu.Sender) == invitefilter.Allow, err
}

// crowd evaluates the event for the members of the room who have pushers: once for all with the default rules, once for each class
// of other rules, and by itself for each user whom the event names.
func (j *judge) crowd(ctx context.Context, key roomdb.RoomKey, c *crowd) (err error) {
	g, err := j.s.audience.grouped(ctx, key, j.pdu.RoomID, c)
	if err != nil {
		return err
	}
	if j.room, err = j.s.audience.roomOf(ctx, key, c); err != nil {
		return err
	}
	named := j.named(c)
	all := notify.JudgeAll(j.view, j.pdu, j.room)
	if all.Notify {
		j.tellAll(g.plain, named, all)
	}
	for _, r := range g.level {
		if o := r.Level(j.pdu.RoomID).Cut(all); o.Notify && r.User != j.pdu.Sender && !named[r.User] && !r.Ignored.Has(j.pdu.Sender) {
			j.tell(r.User, o)
		}
	}
	if err := j.own(ctx, key, g, named); err != nil {
		return err
	}
	if len(named) == 0 {
		return nil
	}
	users := make([]id.User, 0, len(named))
	for u := range named {
		users = append(users, u)
	}
	rules, err := j.s.audience.rulesOf(ctx, users)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if !r.Own() {
			j.one(r)
		}
	}
	return nil
}

// tellAll tells users, who are in order, of an outcome: all but the sender and those whom the event names.
func (j *judge) tellAll(users []id.User, named map[id.User]bool, o pushrule.Outcome) {
	var but []int
	for u := range named {
		if at, there := slices.BinarySearch(users, u); there {
			but = append(but, at)
		}
	}
	if at, there := slices.BinarySearch(users, j.pdu.Sender); there && !named[j.pdu.Sender] {
		but = append(but, at)
	}
	slices.Sort(but)
	from := 0
	for _, to := range append(but, len(users)) {
		for _, u := range users[from:to] {
			j.tell(u, o)
		}
		from = to + 1
	}
}

// named are the members of a crowd for whom the default rules may say something else than for the others.
func (j *judge) named(c *crowd) map[id.User]bool {
	named := make(map[id.User]bool)
	add := func(text string) {
		if u := id.User(text); c.has(u) {
			named[u] = true
		}
	}
	for _, m := range gjson.GetBytes(j.pdu.Content, `m\.mentions.user_ids`).Array() {
		add(m.Str)
	}
	if j.pdu.StateKey != nil {
		add(*j.pdu.StateKey)
		add(strings.ToLower(*j.pdu.StateKey))
	}
	return named
}

// own evaluates the event for those with rules of their own.
func (j *judge) own(ctx context.Context, key roomdb.RoomKey, g *groups, named map[id.User]bool) error {
	var single []*notify.Rules
	for _, class := range g.own {
		o := class[0].JudgeOthers(j.view, j.pdu, j.room)
		if o.Personal {
			single = append(single, class...)
			continue
		}
		for _, r := range class {
			switch {
			case named[r.User]:
				single = append(single, r)
			case o.Notify && r.User != j.pdu.Sender && !r.Off() && !r.Ignored.Has(j.pdu.Sender):
				j.tell(r.User, o)
			}
		}
	}
	if len(single) == 0 {
		return nil
	}
	users := make([]id.User, len(single))
	for i, r := range single {
		users[i] = r.User
	}
	room, err := notify.LoadRoom(ctx, j.s.rooms, key, users...) // rules may look for display names
	if err != nil {
		return err
	}
	j.room = room
	for _, r := range single {
		j.one(r)
	}
	return nil
}

var plainTweaks = []byte("{}")

// tweaksOf returns the tweaks of an outcome as a push gateway gets them.
func tweaksOf(o pushrule.Outcome) []byte {
	if len(o.Tweaks) == 0 {
		return plainTweaks
	}
	tweaks := make(map[string]json.RawMessage, len(o.Tweaks))
	for _, t := range o.Tweaks {
		tweaks[t.Name] = t.Value
	}
	b, err := json.Marshal(tweaks)
	if err != nil { // a value is JSON that a client sent, and was read before
		return plainTweaks
	}
	return b
}

// queue stores what some entries lead to, with a fixed number of statements for each shard unless there is very much of it, and wakes
// who sends it.
func (s *Service) queue(ctx context.Context, q *queued) error {
	wake := make(map[uint32][]id.User)
	now := time.Now().UnixMilli()
	for pool, all := range s.rowsByShard(q.rows) {
		for rows := range slices.Chunk(all, queueAtOnce) {
			if err := s.queueRows(ctx, pool, rows, now, wake); err != nil {
				return err
			}
		}
	}
	if err := s.queueBadges(ctx, q.badges, now, wake); err != nil {
		return err
	}
	for part, users := range wake {
		if err := s.bus.WakePush(part, users); err != nil {
			s.log.Debug("wake push", "part", part, "err", err) // the next look finds it
		}
	}
	return nil
}

// queueRows stores rows of users of one shard.
func (s *Service) queueRows(ctx context.Context, pool *pgxpool.Pool, rows []row, now int64, wake map[uint32][]id.User) error {
	n := len(rows)
	parts, users, roomParts, nids := make([]int32, n), make([]string, n), make([]int32, n), make([]int64, n)
	rooms, events, eventNIDs, positions, tweaks := make([]string, n), make([]string, n), make([]int64, n), make([]int64, n), make([][]byte, n)
	for i, r := range rows {
		part := partition.Of(string(r.user))
		parts[i], users[i], roomParts[i], nids[i] = int32(part), string(r.user), int32(r.key.Part), r.key.NID
		rooms[i], events[i], eventNIDs[i], positions[i], tweaks[i] = r.room, r.event, r.eventNID, r.pos, r.tweaks
		wake[part] = append(wake[part], r.user)
	}
	var collapsed float64
	err := pool.QueryRow(ctx, sqlQueue, parts, users, roomParts, nids, rooms, events, eventNIDs, positions, tweaks, now).Scan(&collapsed)
	if err != nil {
		return fmt.Errorf("queue notifications: %w", err)
	}
	s.metrics.dropped.WithLabelValues("collapsed").Add(collapsed)
	return nil
}

// queueBadges lets users be told their counts anew.
func (s *Service) queueBadges(ctx context.Context, users []id.User, now int64, wake map[uint32][]id.User) error {
	if len(users) == 0 {
		return nil
	}
	with, err := s.audience.withPushers(ctx, unique(users))
	if err != nil {
		return err
	}
	for pool, g := range byShard(s.shards, with) {
		rows, err := pool.Query(ctx, sqlQueueBadge, g.parts, g.users, now)
		if err != nil {
			return fmt.Errorf("queue counts: %w", err)
		}
		var part uint32
		var user id.User
		if err := forEach(rows, []any{&part, &user}, func() { wake[part] = append(wake[part], user) }); err != nil {
			return fmt.Errorf("queue counts: %w", err)
		}
	}
	return nil
}
