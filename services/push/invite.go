package push

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/notify"
)

// An invite to a room that this server is not in has no entry in a room's log: it lies in the user's membership row only, and in
// push_invite if the user has a pusher. The owner of the user's partition evaluates it, and makes rows of it as of other events. Its
// place in the log and the number of its room are made up: they are negative, so that no entry and no room has them.

// invitesAtOnce bounds the invites that are looked at in one transaction.
const invitesAtOnce = 500

// invite is an invite to a room that this server is not in, or what became of it.
type invite struct {
	user     id.User
	room     id.Room
	roomPart int32
	event    id.Event
	stripped []byte
	pdu      *event.PDU // nil: the user is not invited any more
}

// made is a negative number made of a text.
func made(text string) int64 {
	sum := sha256.Sum256([]byte(text))
	return -1 - int64(binary.BigEndian.Uint64(sum[:8])>>1)
}

// read takes the event of a membership row.
func (i *invite) read(membership string, current id.Event, version string, raw []byte) {
	rules, ok := roomversion.Get(version)
	if membership != "invite" || current != i.event || !ok || len(raw) == 0 {
		return
	}
	pdu, err := event.ParseTrusted(raw, current, rules)
	if err != nil {
		return
	}
	pdu.RoomID = i.room
	i.pdu = pdu
}

// names fills in what the room and the inviter are called, as the inviter's server says.
func (i *invite) names(n *notification) {
	state := gjson.ParseBytes(i.stripped)
	content := func(typ, key string) (c gjson.Result) {
		state.ForEach(func(_, e gjson.Result) bool {
			if e.Get("type").Str == typ && e.Get("state_key").Str == key {
				c = e.Get("content")
			}
			return !c.Exists()
		})
		return c
	}
	n.RoomName = content("m.room.name", "").Get("name").Str
	n.RoomAlias = content("m.room.canonical_alias", "").Get("alias").Str
	n.SenderName = content("m.room.member", n.Sender).Get("displayname").Str
}

// takeInvites makes rows of invites that nobody was told of: of some users, or of all.
func (b *box) takeInvites(ctx context.Context, users []id.User, all bool) error {
	rows, err := b.s.shards.For(b.N).Query(ctx, sqlInvites, int32(b.N), users, all, invitesAtOnce)
	if err != nil {
		return fmt.Errorf("read invites: %w", err)
	}
	invites, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i *invite, err error) {
		i = new(invite)
		var membership, version string
		var current id.Event
		var raw []byte
		var part *int32
		if err := row.Scan(&i.user, &i.room, &i.event, &part, &membership, &current, &version, &raw, &i.stripped); err != nil {
			return nil, err
		}
		if part != nil {
			i.roomPart = *part
		}
		i.read(membership, current, version, raw)
		return i, nil
	})
	if err != nil {
		return fmt.Errorf("read invites: %w", err)
	}
	if len(invites) == 0 {
		return nil
	}
	if len(invites) == invitesAtOnce {
		defer b.again(users, all)
	}
	var q pgx.Batch
	for _, i := range invites {
		if err := b.planInvite(ctx, i, &q); err != nil {
			return err
		}
		q.Queue(sqlInviteTaken, int32(b.N), i.user, i.room, i.event)
	}
	if err := b.Store(ctx, &q); err != nil {
		return fmt.Errorf("store invites: %w", err)
	}
	for _, i := range invites {
		b.wake(i.user)
	}
	return nil
}

// planInvite queues what an invite leads to; its end lets the user's count be told.
func (b *box) planInvite(ctx context.Context, i *invite, q *pgx.Batch) error {
	now := time.Now().UnixMilli()
	if i.pdu == nil {
		q.Queue(sqlQueueBadge, []int32{int32(b.N)}, []id.User{i.user}, now)
		return nil
	}
	// The age that the inviter's server claims is not looked at: it came just now.
	j := &judge{s: b.s, pdu: i.pdu, view: pushrule.NewView(i.pdu), room: new(notify.Room), tell: func(user id.User, o pushrule.Outcome) {
		q.Queue(sqlQueue, []int32{int32(b.N)}, []id.User{user}, []int32{i.roomPart}, []int64{made(string(i.room))}, []string{string(i.room)},
			[]string{string(i.event)}, []int64{0}, []int64{made(string(i.event))}, [][]byte{tweaksOf(o)}, now)
	}}
	shown, err := j.mayInvite(ctx, i.user)
	if err != nil || !shown {
		return err
	}
	rules, err := b.s.audience.rulesOf(ctx, []id.User{i.user})
	if err != nil {
		return err
	}
	j.one(rules[i.user])
	return nil
}

// inviteOf reads the invite that an item is about; nil if the user is not invited any more.
func (b *box) inviteOf(ctx context.Context, user id.User, it *item) (*invite, error) {
	i := &invite{user: user, room: id.Room(it.room), event: id.Event(it.event)}
	var membership, version string
	var current id.Event
	var raw []byte
	rows, err := b.s.shards.For(b.N).Query(ctx, sqlInviteOf, int32(b.N), user, it.room)
	if err != nil {
		return nil, fmt.Errorf("read an invite: %w", err)
	}
	_, err = pgx.ForEachRow(rows, []any{&i.roomPart, &membership, &current, &version, &raw, &i.stripped}, func() error {
		i.read(membership, current, version, raw)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read an invite: %w", err)
	}
	if i.pdu == nil {
		return nil, nil
	}
	return i, nil
}
