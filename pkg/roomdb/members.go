package roomdb

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

const (
	// fewMembers is up to how many member events are read as events, and cached; membersStep how many of more are read at
	// a time.
	fewMembers  = 200
	membersStep = 2000
)

// Memberships returns the memberships that member events give: of those that exist. Many are neither parsed nor cached, so
// that those of a large room do not push out what others need.
func (d *DB) Memberships(ctx context.Context, part uint32, nids []int64) (map[int64]string, error) {
	out := make(map[int64]string, len(nids))
	if len(nids) <= fewMembers {
		events, err := d.Events(ctx, part, nids)
		for nid, e := range events {
			out[nid] = e.Membership()
		}
		return out, err
	}
	for step := range slices.Chunk(nids, membersStep) {
		if err := d.readMemberships(ctx, part, step, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (d *DB) readMemberships(ctx context.Context, part uint32, nids []int64, into map[int64]string) error {
	rows, err := d.shards.For(part).Query(ctx, `SELECT event_nid, json FROM unnest($2::bigint[]) AS w (nid)
		JOIN LATERAL (SELECT event_nid, json FROM event WHERE part = $1 AND event_nid >= w.nid ORDER BY event_nid LIMIT 1) e ON event_nid = w.nid`, int32(part), nids)
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	var nid int64
	var json pgtype.DriverBytes
	_, err = pgx.ForEachRow(rows, []any{&nid, &json}, func() error {
		into[nid] = membershipName(gjson.GetBytes(json, "content.membership").Str) // redaction keeps it
		return nil
	})
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	return nil
}

// membershipName returns a name that is kept by nobody's bytes.
func membershipName(name string) string {
	for _, known := range []string{"join", "leave", "invite", "ban", "knock"} {
		if name == known {
			return known
		}
	}
	return ""
}

// EachJoined calls each for the joined members among entries of a state. It holds some at a time.
func (d *DB) EachJoined(ctx context.Context, part uint32, members iter.Seq2[state.Key, int64], each func([]id.User) error) error {
	var nids []int64
	var users []id.User
	look := func() error {
		is, err := d.Memberships(ctx, part, nids)
		if err != nil {
			return err
		}
		joined := users[:0]
		for i, user := range users {
			if is[nids[i]] == "join" {
				joined = append(joined, user)
			}
		}
		nids, users = nids[:0], users[:0]
		return each(joined)
	}
	for key, nid := range members {
		if nids, users = append(nids, nid), append(users, id.User(key.StateKey)); len(nids) < membersStep {
			continue
		}
		if err := look(); err != nil {
			return err
		}
	}
	return look()
}

// maxPlainMembers is up to how many members of a room that is not encrypted come and go in device lists.
const maxPlainMembers = 1000

// ListsDevices says whether members who come into sight or go out of it belong into device lists (client-server API,
// "Tracking the device list for a user": those with whom an encrypted room is shared). Those of other rooms do no harm,
// and some clients expect them, as long as they are not many.
func ListsDevices(m state.Map, members int) bool {
	return members <= maxPlainMembers || m.Has(state.Key{Type: "m.room.encryption"})
}
