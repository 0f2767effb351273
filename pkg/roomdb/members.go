package roomdb

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

const (
	// fewMembers is up to how many member events are read as events, and cached; membersStep how many users are handed out at
	// a time.
	fewMembers  = 200
	membersStep = 2000
)

// Memberships returns the memberships that member events of a room give: of those that exist. Many are neither parsed nor
// cached, so that those of a large room do not push out what others need.
func (d *DB) Memberships(ctx context.Context, room RoomKey, nids []int64) (map[int64]string, error) {
	out := make(map[int64]string, len(nids))
	if len(nids) <= fewMembers {
		events, err := d.Events(ctx, room.Part, nids)
		for nid, e := range events {
			out[nid] = e.Membership()
		}
		return out, err
	}
	sorted := slices.Clone(nids)
	slices.Sort(sorted)
	return out, d.EachRaw(ctx, room, slices.Compact(sorted), func(r *Raw) error {
		out[r.NID] = membershipName(gjson.GetBytes(r.JSON, "content.membership").Str) // redaction keeps it
		return nil
	})
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

// EachJoined calls each for the joined members among entries of a state, some at a time, in any order.
func (d *DB) EachJoined(ctx context.Context, room RoomKey, members iter.Seq2[state.Key, int64], each func([]id.User) error) error {
	type member struct {
		nid  int64
		user string
	}
	var all []member
	for key, nid := range members {
		all = append(all, member{nid, key.StateKey})
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.nid, b.nid) })
	nids := make([]int64, 0, membersStep)
	for step := range slices.Chunk(all, membersStep) {
		nids = nids[:0]
		for _, m := range step {
			nids = append(nids, m.nid)
		}
		is, err := d.Memberships(ctx, room, nids)
		if err != nil {
			return err
		}
		joined := make([]id.User, 0, len(step))
		for _, m := range step {
			if is[m.nid] == "join" {
				joined = append(joined, id.User(m.user))
			}
		}
		if err := each(joined); err != nil {
			return err
		}
	}
	return nil
}

// maxPlainMembers is up to how many members of a room that is not encrypted come and go in device lists.
const maxPlainMembers = 1000

// ListsDevices says whether members who come into sight or go out of it belong into device lists (client-server API,
// "Tracking the device list for a user": those with whom an encrypted room is shared). Those of other rooms do no harm,
// and some clients expect them, as long as they are not many.
func ListsDevices(m state.Map, members int) bool {
	return members <= maxPlainMembers || m.Has(state.Key{Type: "m.room.encryption"})
}
