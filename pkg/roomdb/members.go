package roomdb

import (
	"cmp"
	"context"
	"iter"
	"maps"
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

// Memberships returns the memberships that member events of a room give: of those that exist.
func (d *DB) Memberships(ctx context.Context, room RoomKey, nids []int64) (map[int64]string, error) {
	out := make(map[int64]string, len(nids))
	return out, d.eachMember(ctx, room, nids, func(nid, _ int64, membership string) { out[nid] = membership })
}

// eachMember reads member events of a room: of those that exist the number, that of the event which it replaced in the current
// state, and the membership. Many are neither parsed nor cached, so that those of a large room do not push out what others need.
func (d *DB) eachMember(ctx context.Context, room RoomKey, nids []int64, fn func(nid, replaces int64, membership string)) error {
	if len(nids) <= fewMembers {
		events, err := d.Events(ctx, room.Part, nids)
		for nid, e := range events {
			fn(nid, e.Replaces, e.Membership())
		}
		return err
	}
	sorted := slices.Clone(nids)
	slices.Sort(sorted)
	return d.EachRaw(ctx, room, slices.Compact(sorted), func(r *Raw) error {
		fn(r.NID, r.Replaces, membershipName(gjson.GetBytes(r.JSON, "content.membership").Str)) // redaction keeps it
		return nil
	})
}

// Tenure is a member of a room whose membership was joined by one event and is by another.
type Tenure struct{ From, To int64 }

// maxTenure is how many memberships are followed from one event back to another.
const maxTenure = 10

// Stayed returns those of some members of a room who were joined all the time from one event to the other: each event replaced
// one that says joined, back to the first. Of others nobody can be sure.
func (d *DB) Stayed(ctx context.Context, room RoomKey, members []Tenure) (map[Tenure]bool, error) {
	stayed := make(map[Tenure]bool, len(members))
	back := make(map[int64][]Tenure, len(members)) // by the event that was reached
	for _, t := range members {
		back[t.To] = append(back[t.To], t)
	}
	for range maxTenure {
		if len(back) == 0 {
			break
		}
		next := make(map[int64][]Tenure)
		err := d.eachMember(ctx, room, slices.Collect(maps.Keys(back)), func(nid, replaces int64, membership string) {
			if membership != "join" || replaces == 0 {
				return
			}
			for _, t := range back[nid] {
				if replaces == t.From {
					stayed[t] = true
				} else {
					next[replaces] = append(next[replaces], t)
				}
			}
		})
		if err != nil {
			return nil, err
		}
		back = next
	}
	return stayed, nil
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
