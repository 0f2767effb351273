package notify

import (
	"context"
	"math"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// MaxTally is how many events are looked at one by one, the newest: more unread ones make no higher count.
const MaxTally = 500

// Joined is a room that a user is in, and where the present join began.
type Joined struct {
	roomdb.RoomKey
	Room    id.Room
	JoinPos int64
}

// Read is how far a user has read a room.
type Read struct {
	// Ord is the log position up to which everything is read, NotifySeq the running number of notifying events there.
	Ord, NotifySeq int64
	// Plain is the position up to which only mentions count: the room was muted until then.
	Plain int64
	// Threads is how far single threads were read beyond Ord; "main" is the main timeline.
	Threads map[string]int64
}

// Take moves the read position to the newest of the user's receipts.
func (r *Read) Take(receipts []roomdb.Receipt) {
	isRead := func(c *roomdb.Receipt) bool { return c.Type == "m.read" || c.Type == "m.read.private" }
	for i := range receipts {
		c := &receipts[i]
		if (c.Thread == "" || c.Thread == roomdb.MutedAll) && isRead(c) && c.Ord >= r.Ord {
			r.Ord, r.NotifySeq = c.Ord, c.NotifySeq
		}
		if c.Thread == roomdb.MutedPlain {
			r.Plain = c.Ord
		}
	}
	for i := range receipts {
		c := &receipts[i]
		if c.Thread != "" && !roomdb.IsMuted(c.Thread) && isRead(c) && c.Ord > r.Ord {
			if r.Threads == nil {
				r.Threads = make(map[string]int64)
			}
			r.Threads[c.Thread] = max(r.Threads[c.Thread], c.Ord)
		}
	}
}

// Has says whether an event is read: by the receipt for all threads, or by that of its own.
func (r *Read) Has(ord int64, thread string) bool {
	if thread == "" {
		thread = "main"
	}
	return ord <= r.Ord || ord <= r.Threads[thread]
}

// ThreadOf returns the root of the thread that an event is in, "" for the main timeline (client-server API, "Threaded read
// receipts").
func ThreadOf(e *event.PDU) string {
	relation := gjson.GetBytes(e.Content, `m\.relates_to`)
	if relation.Get("rel_type").Str != "m.thread" {
		return ""
	}
	return relation.Get("event_id").Str
}

// Count is what is unread of a room, or of one thread.
type Count struct{ Notifications, Highlights int64 }

// Cut applies the level of the room to a count of what the other rules say: where only mentions notify, highlights are left.
func (c Count) Cut(level Level) Count {
	switch level {
	case None:
		return Count{}
	case Mentions:
		return Count{c.Highlights, c.Highlights}
	}
	return c
}

// Muted are the times in which a user had muted everything. What came then does not count, also afterwards.
type Muted []userdb.MutedTime

// At returns the time to which a position of a partition's log belongs, or nil.
func (m Muted) At(part uint32, pos int64) *userdb.MutedTime {
	for i, t := range m {
		if pos > t.Since[part] && (t.Until == nil || pos <= t.Until[part]) {
			return &m[i]
		}
	}
	return nil
}

// In says whether some of the positions in (after, upTo] of a partition belong to such a time.
func (m Muted) In(part uint32, after, upTo int64) bool {
	return slices.ContainsFunc(m, func(t userdb.MutedTime) bool {
		return t.Since[part] < upTo && (t.Until == nil || t.Until[part] > max(after, t.Since[part]))
	})
}

// OneByOne says whether the events behind a read position, of which some notify by the default rules, must be looked at one by one:
// else a count is a subtraction.
func (r *Read) OneByOne(rules *Rules, muted Muted, part uint32, upTo int64) bool {
	return r.Threads != nil || r.Plain > r.Ord || !rules.Off() && muted.In(part, r.Ord, upTo)
}

// Unread returns what a user has not read in some rooms, in all threads together. Rooms with nothing are left out.
// It costs a fixed number of queries for each shard, but for rooms in which events have to be looked at one by one.
func Unread(ctx context.Context, db *roomdb.DB, rules *Rules, muted Muted, rooms []Joined) (map[roomdb.RoomKey]Count, error) {
	keys := make([]roomdb.RoomKey, len(rooms))
	joins, ends := make(map[roomdb.RoomKey]int64, len(rooms)), make(map[uint32]int64)
	for i, r := range rooms {
		keys[i] = r.RoomKey
		joins[r.RoomKey], ends[r.Part] = r.JoinPos, math.MaxInt64
	}
	heads, err := db.NotifySeqs(ctx, keys, ends, joins)
	if err != nil {
		return nil, err
	}
	receipts, err := db.ReceiptsOf(ctx, keys, rules.User)
	if err != nil {
		return nil, err
	}
	counts := make(map[roomdb.RoomKey]Count)
	var spans []roomdb.UnreadSpan
	behind := make(map[roomdb.RoomKey]int64) // notifying events behind the read position
	for _, r := range rooms {
		read := Read{Ord: r.JoinPos, NotifySeq: heads[r.RoomKey].AtJoin}
		read.Take(receipts[r.RoomKey])
		n := heads[r.RoomKey].Head - read.NotifySeq
		switch {
		case rules.Own() || n > 0 && read.OneByOne(rules, muted, r.Part, math.MaxInt64):
			tallies, err := Tally(ctx, db, rules, muted, r.RoomKey, &read, math.MaxInt64)
			if err != nil {
				return nil, err
			}
			counts[r.RoomKey] = sum(tallies)
		case n > 0:
			behind[r.RoomKey] = n
			spans = append(spans, roomdb.UnreadSpan{RoomKey: r.RoomKey, After: read.Ord, UpTo: math.MaxInt64})
		}
	}
	if err := subtract(ctx, db, rules, spans, behind, counts); err != nil {
		return nil, err
	}
	for _, r := range rooms {
		c := counts[r.RoomKey]
		if !rules.Own() {
			c = c.Cut(rules.Level(r.Room))
		}
		if counts[r.RoomKey] = c; c.Notifications == 0 {
			delete(counts, r.RoomKey)
		}
	}
	return counts, nil
}

func sum(tallies map[string]Count) (all Count) {
	for _, c := range tallies {
		all.Notifications += c.Notifications
		all.Highlights += c.Highlights
	}
	return all
}

// subtract adds the counts of spans of which so many events notify others.
func subtract(ctx context.Context, db *roomdb.DB, rules *Rules, spans []roomdb.UnreadSpan, notify map[roomdb.RoomKey]int64, counts map[roomdb.RoomKey]Count) error {
	ignored := ignoredBy(rules)
	found, err := db.Unread(ctx, rules.User, ignored, spans, make([]bool, len(spans)))
	if err != nil {
		return err
	}
	silent, err := db.Silent(ctx, rules.User, ignored, spans)
	if err != nil {
		return err
	}
	for _, s := range spans {
		mentions := found[s.RoomKey].Mentions
		counts[s.RoomKey] = Count{max(notify[s.RoomKey]-silent[s.RoomKey], mentions), mentions}
	}
	return nil
}

func ignoredBy(rules *Rules) []id.User {
	users := make([]id.User, 0, len(rules.Ignored))
	for u := range rules.Ignored {
		users = append(users, u)
	}
	return users
}

// Tally counts by looking at the events behind a read position, the newest MaxTally at most, by thread; "" is the main timeline. The
// level of the room is not applied to it. With rules of the user's own it is in the counts already.
func Tally(ctx context.Context, db *roomdb.DB, rules *Rules, muted Muted, key roomdb.RoomKey, read *Read, upTo int64) (map[string]Count, error) {
	tallies := make(map[string]Count)
	var room *Room
	for left := MaxTally; upTo > read.Ord && left > 0; {
		to := roomdb.End
		if upTo != math.MaxInt64 {
			to = roomdb.At(upTo)
		}
		events, err := db.Timeline(ctx, key.Part, key.NID, roomdb.TimelineQuery{
			After: roomdb.At(read.Ord), UpTo: to, Backwards: true, Live: true, Limit: left + 1,
		})
		if err != nil || len(events) == 0 {
			return tallies, err
		}
		if room == nil {
			if room, err = LoadRoom(ctx, db, key, rules.User); err != nil {
				return nil, err
			}
		}
		upTo = read.Ord
		for _, e := range events[:min(len(events), left)] {
			if m := muted.At(key.Part, e.Ord); m != nil {
				upTo = m.Since[key.Part] // what came before the mute still counts
				break
			}
			left--
			read.Count(rules, muted, room, e, tallies)
		}
	}
	return tallies, nil
}

// Count counts an event that is behind the read position, if the user has not read it.
func (r *Read) Count(rules *Rules, muted Muted, room *Room, e *roomdb.Event, tallies map[string]Count) {
	root := ThreadOf(e.PDU)
	if r.Has(e.Ord, root) || e.Sender == rules.User || e.RedactedBy != 0 || muted.At(e.Part, e.Ord) != nil {
		return
	}
	c := rules.Count(e.PDU, room)
	if e.Ord <= r.Plain {
		c = c.Cut(Mentions)
	}
	if c != (Count{}) {
		was := tallies[root]
		tallies[root] = Count{was.Notifications + c.Notifications, was.Highlights + c.Highlights}
	}
}

// Count is what an event counts by the user's rules, but for those for the whole room, unless the user has rules of their own.
func (r *Rules) Count(e *event.PDU, room *Room) (c Count) {
	if o := r.JudgeLoud(pushrule.NewView(e), e, room); o.Notify {
		c.Notifications = 1
		if o.Highlight {
			c.Highlights = 1
		}
	}
	return c
}
