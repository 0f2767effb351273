package room

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/view"
)

// Invites to a room that we are not in come from servers of which nobody can tell whether they are in the room. The first one is
// the user's membership until it ends. Those that other servers send meanwhile are kept beside it: none replaces another's, none keeps
// another's from the user for good.

// maxBeside is how many invites to one room are kept beside the one that the user is shown.
const maxBeside = 4

// keptInvite is an invite that waits for another one to end.
type keptInvite struct {
	server   id.Server
	eventID  id.Event
	version  string
	event    []byte
	stripped []byte
}

const (
	sqlKeepBeside = `
INSERT INTO invite_beside AS b (part, user_id, room_id, server, event_id, room_version, event, stripped)
SELECT $1, $2, $3, $4, $5, $6, $7, $8
WHERE (SELECT count(*) FROM invite_beside WHERE part = $1 AND user_id = $2 AND room_id = $3 AND server <> $4) < $9
ON CONFLICT (part, user_id, room_id, server) DO UPDATE
SET event_id = excluded.event_id, room_version = excluded.room_version, event = excluded.event, stripped = excluded.stripped`

	sqlBesides = `
SELECT server, event_id, room_version, event, stripped FROM invite_beside
WHERE part = $1 AND user_id = $2 AND room_id = $3 ORDER BY came`

	sqlIgnored = `SELECT content FROM account_data WHERE part = $1 AND user_id = $2 AND room_id = '' AND type = $3 AND NOT deleted`

	sqlForgetBeside = `DELETE FROM invite_beside WHERE part = $1 AND user_id = $2 AND room_id = $3 AND (server = $4 OR $4 = '')`
)

// keepBeside keeps an invite beside that of another server, if the user has one: row is what the user is to the room.
func (s *Service) keepBeside(ctx context.Context, row *unjoinedRow, e unjoinedEvent) (kept bool, err error) {
	from := e.Sender.Server()
	if e.Membership() != "invite" || row == nil || row.membership != "invite" || row.eventNID != 0 || row.sender.Server() == from {
		return false, nil
	}
	user := *e.StateKey
	part := partition.Of(user)
	if unseen, err := s.ignores(ctx, part, user, row.sender); err != nil || unseen {
		return false, err // of that invite the user is not told
	}
	_, err = s.shards.For(part).Exec(ctx, sqlKeepBeside, int32(part), user, string(e.RoomID), string(from), string(e.ID), e.Rules.Version,
		e.JSON, e.stripped, maxBeside)
	if err != nil {
		return false, fmt.Errorf("keep an invite beside another: %w", err)
	}
	return true, nil
}

// ignores says whether a user of ours ignores another (client-server API, "Ignoring Users").
func (s *Service) ignores(ctx context.Context, part uint32, user string, other id.User) (bool, error) {
	var list []byte
	err := s.shards.For(part).QueryRow(ctx, sqlIgnored, int32(part), user, view.IgnoredUsers).Scan(&list)
	if err != nil && !pg.IsNoRows(err) {
		return false, fmt.Errorf("read ignored users: %w", err)
	}
	return view.ParseIgnored(list).Has(other), nil
}

// besides returns the invites that are kept, the oldest first.
func (s *Service) besides(ctx context.Context, roomID id.Room, user id.User) ([]keptInvite, error) {
	part := partition.Of(string(user))
	rows, err := s.shards.For(part).Query(ctx, sqlBesides, int32(part), string(user), string(roomID))
	if err != nil {
		return nil, fmt.Errorf("read invites: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b keptInvite, err error) {
		return b, row.Scan(&b.server, &b.eventID, &b.version, &b.event, &b.stripped)
	})
	if err != nil {
		return nil, fmt.Errorf("read invites: %w", err)
	}
	return found, nil
}

// forgetBeside forgets the invite of a server, or of all servers if it is "".
func (s *Service) forgetBeside(ctx context.Context, roomID id.Room, user id.User, server id.Server) error {
	part := partition.Of(string(user))
	if _, err := s.shards.For(part).Exec(ctx, sqlForgetBeside, int32(part), string(user), string(roomID), string(server)); err != nil {
		return fmt.Errorf("forget invites: %w", err)
	}
	return nil
}

// showNext makes the next of the invites that are kept the user's membership, after the one before has ended.
func (s *Service) showNext(ctx context.Context, r *room, user id.User, nid, head int64) error {
	kept, err := s.besides(ctx, r.id, user)
	if err != nil {
		return err
	}
	for _, b := range kept {
		pdu := b.parse()
		if pdu != nil {
			if err := s.projectUnjoined(ctx, r, unjoinedEvent{PDU: pdu, stripped: b.stripped}, nid, head); err != nil {
				return err
			}
		}
		if err := s.forgetBeside(ctx, r.id, user, b.server); err != nil || pdu != nil {
			return err
		}
	}
	return nil
}

// parse returns the invite; nil if it is of a room version that is not known any more.
func (b *keptInvite) parse() *event.PDU {
	rules, ok := roomversion.Get(b.version)
	if !ok {
		return nil
	}
	pdu, err := event.ParseTrusted(b.event, b.eventID, rules)
	if err != nil {
		return nil
	}
	return pdu
}

// endBeside forgets an invite that is kept if an event of its server takes it back.
func (s *Service) endBeside(ctx context.Context, roomID id.Room, user id.User, raw []byte) (*event.PDU, error) {
	kept, err := s.besides(ctx, roomID, user)
	if err != nil {
		return nil, err
	}
	for _, b := range kept {
		rules, ok := roomversion.Get(b.version)
		if !ok {
			continue
		}
		pdu, err := parseEvent(raw, rules, roomID)
		if err != nil || pdu.Sender.Server() != b.server || !endsInvite(pdu) || !slices.Contains(pdu.AuthEvents, b.eventID) {
			continue
		}
		return pdu, s.forgetBeside(ctx, roomID, user, b.server)
	}
	return nil, nil
}
