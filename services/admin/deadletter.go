package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/deadletter"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/outgoing"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	"hanse/pkg/search"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// ErrNoDeadLetter says that there is nothing to replay at a position.
var ErrNoDeadLetter = errors.New("there is no such dead letter")

// DeadLetters lists what no consumer could process, by partition, consumer and position.
func (a *Admin) DeadLetters(ctx context.Context) ([]deadletter.Letter, error) {
	return deadletter.All(ctx, a.shards)
}

// Replay is what a replay did.
type Replay struct {
	// Again are the servers that will read the log again from the entry on.
	Again []id.Server
	// Busy are servers that are catching up from a later position now. The letter stays while there are some.
	Busy []id.Server
}

// ReplayDeadLetter has an entry processed that a consumer passed over. The entry must be readable by now, else nothing
// changes.
//
// What fedout did not hand out is sent by what sends after an outage: the servers in the room are marked as behind from
// the entry on. Each of them gets everything of that partition from there on once more; receivers know events that they
// have by their ids.
//
// What was not indexed is indexed.
//
// Entries of sync are not delivered once more: clients read the database at the next full sync or gap, and in the
// room's history. Nor are those of push: their notifications would come too late. The letter is removed.
func (a *Admin) ReplayDeadLetter(ctx context.Context, consumer string, part uint32, pos int64) (*Replay, error) {
	if part >= a.shards.P() {
		return nil, partition.ErrNoPartition
	}
	there, err := deadletter.Exists(ctx, a.shards, part, consumer, pos)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, ErrNoDeadLetter
	}
	entry, err := a.readEntry(ctx, part, pos)
	if err != nil {
		return nil, err
	}
	done := new(Replay)
	by, only := consumer, id.Server("")
	if server, refused := deadletter.Refuser(consumer); refused {
		by, only = deadletter.Fedout, server
	}
	switch by {
	case deadletter.Sync, deadletter.Push, deadletter.Appservice:
	case deadletter.Client:
		if err := search.Again(ctx, a.shards, part, entry); err != nil {
			return nil, err
		}
	case deadletter.Fedout:
		if err := a.sendAgain(ctx, part, entry, only, done); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("the dead letters of %q cannot be replayed", consumer)
	}
	if len(done.Busy) > 0 {
		return done, nil
	}
	if err := deadletter.Remove(ctx, a.shards, part, consumer, pos); err != nil {
		return nil, err
	}
	return done, nil
}

// readEntry reads an entry of the log and checks that this program understands it.
func (a *Admin) readEntry(ctx context.Context, part uint32, pos int64) (*logv1.Entry, error) {
	const cacheBytes = 1 << 20 // for one entry
	rooms := roomdb.Open(a.shards, state.NewStore(state.Config{Cache: cacheBytes}, nil), roomdb.Config{EventCache: cacheBytes, GraphCache: cacheBytes}, nil)
	entries, err := rooms.ReadLog(ctx, part, pos, 1)
	if err != nil {
		return nil, fmt.Errorf("still unreadable: %w", err)
	}
	if len(entries) == 0 || entries[0].Pos != pos {
		return nil, fmt.Errorf("partition %d has no entry %d", part, pos)
	}
	if entries[0].Body == nil {
		return nil, errors.New("still unreadable: this program does not know its kind or the version of its room, or it is damaged")
	}
	if e := entries[0].GetEvent(); e != nil {
		rules, ok := roomversion.Get(e.RoomVersion)
		if !ok {
			return nil, fmt.Errorf("still unreadable: room version %q", e.RoomVersion)
		}
		if _, err := event.ParseTrusted(e.Json, id.Event(e.EventId), rules); err != nil {
			return nil, fmt.Errorf("still unreadable: %w", err)
		}
	}
	return entries[0], nil
}

// sendAgain marks those who should have got an entry as behind from it on, or only one of them.
func (a *Admin) sendAgain(ctx context.Context, part uint32, e *logv1.Entry, only id.Server, done *Replay) error {
	if !outgoing.Leaves(e, a.isLocal) {
		return nil
	}
	rows, err := a.shards.For(part).Query(ctx, `SELECT server FROM room_server WHERE part = $1 AND room_nid = $2 AND joined > 0`,
		int32(part), e.RoomNid)
	if err != nil {
		return fmt.Errorf("read servers of the room: %w", err)
	}
	inRoom, err := pgx.CollectRows(rows, pgx.RowTo[id.Server])
	if err != nil {
		return fmt.Errorf("read servers of the room: %w", err)
	}
	to := slices.Clone(inRoom)
	for _, s := range e.GetEvent().GetAlsoTo() {
		to = append(to, id.Server(s))
	}
	slices.Sort(to)
	for _, server := range slices.Compact(to) {
		if a.isLocal(server) || only != "" && server != only {
			continue
		}
		again, err := a.fallBehind(ctx, server, part, e, !slices.Contains(inRoom, server))
		if err != nil {
			return fmt.Errorf("mark %s as behind: %w", server, err)
		}
		if again {
			done.Again = append(done.Again, server)
		} else {
			done.Busy = append(done.Busy, server)
		}
	}
	return nil
}

// fallBehind lets a server read the log again from an entry on. It returns false if fedout is at a later position with
// it: that row is fedout's own to move.
func (a *Admin) fallBehind(ctx context.Context, server id.Server, logPart uint32, e *logv1.Entry, notInRoom bool) (again bool, err error) {
	part := partition.Of(string(server))
	err = pgx.BeginFunc(ctx, a.shards.For(part), func(tx pgx.Tx) error {
		if notInRoom {
			if _, err := tx.Exec(ctx, `INSERT INTO destination_room (part, server_name, log_part, room_nid) VALUES ($1, $2, $3, $4)
				ON CONFLICT DO NOTHING`, int32(part), string(server), int32(logPart), e.RoomNid); err != nil {
				return err
			}
		}
		// It may have been mended, and is not to be passed over.
		if _, err := tx.Exec(ctx, `DELETE FROM destination_refused WHERE part = $1 AND server_name = $2`, int32(part), string(server)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO destination_behind (part, server_name, log_part, pos) VALUES ($1, $2, $3, $4)
			ON CONFLICT DO NOTHING`, int32(part), string(server), int32(logPart), e.Pos-1); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT pos < $4 FROM destination_behind WHERE part = $1 AND server_name = $2 AND log_part = $3`,
			int32(part), string(server), int32(logPart), e.Pos).Scan(&again)
	})
	if err != nil {
		return false, err
	}
	return again, a.out.WakeFedout(part)
}
