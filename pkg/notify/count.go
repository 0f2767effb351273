package notify

import (
	"context"
	"math"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/roomdb"
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

// Unread returns how many notifications a user has not read in some rooms, in all threads together. Rooms with none are left out.
// It costs a fixed number of queries for each shard, but for rooms in which events have to be looked at one by one.
func Unread(ctx context.Context, db *roomdb.DB, rules *Rules, rooms []Joined) (map[roomdb.RoomKey]int64, error) {
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
	counts := make(map[roomdb.RoomKey]int64)
	var spans []roomdb.UnreadSpan
	behind := make(map[roomdb.RoomKey]int64) // notifying events behind the read position
	for _, r := range rooms {
		if rules.Level(r.Room) == None {
			continue
		}
		read := Read{Ord: r.JoinPos, NotifySeq: heads[r.RoomKey].AtJoin}
		read.Take(receipts[r.RoomKey])
		n := heads[r.RoomKey].Head - read.NotifySeq
		switch {
		case rules.Own() || n > 0 && (read.Threads != nil || read.Plain > read.Ord):
			if n, err = oneByOne(ctx, db, rules, r, &read); err != nil {
				return nil, err
			}
			if n > 0 {
				counts[r.RoomKey] = n
			}
		case n > 0:
			behind[r.RoomKey] = n
			spans = append(spans, roomdb.UnreadSpan{RoomKey: r.RoomKey, After: read.Ord, UpTo: math.MaxInt64})
		}
	}
	ignored := ignoredBy(rules)
	found, err := db.Unread(ctx, rules.User, ignored, spans, make([]bool, len(spans)))
	if err != nil {
		return nil, err
	}
	silent, err := db.Silent(ctx, rules.User, ignored, spans)
	if err != nil {
		return nil, err
	}
	for _, r := range rooms {
		u, ok := found[r.RoomKey]
		n := max(behind[r.RoomKey]-silent[r.RoomKey], u.Mentions)
		if rules.Level(r.Room) == Mentions {
			n = u.Mentions
		}
		if ok && n > 0 {
			counts[r.RoomKey] = n
		}
	}
	return counts, nil
}

func ignoredBy(rules *Rules) []id.User {
	users := make([]id.User, 0, len(rules.Ignored))
	for u := range rules.Ignored {
		users = append(users, u)
	}
	return users
}

// oneByOne counts the notifications behind a read position by looking at the events.
func oneByOne(ctx context.Context, db *roomdb.DB, rules *Rules, r Joined, read *Read) (n int64, err error) {
	events, err := db.Timeline(ctx, r.Part, r.NID, roomdb.TimelineQuery{After: roomdb.At(read.Ord), UpTo: roomdb.End, Backwards: true, Live: true, Limit: MaxTally})
	if err != nil || len(events) == 0 {
		return 0, err
	}
	room, err := LoadRoom(ctx, db, r.RoomKey, rules.User)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		if e.RedactedBy != 0 || read.Has(e.Ord, ThreadOf(e.PDU)) {
			continue
		}
		o := rules.Judge(pushrule.NewView(e.PDU), e.PDU, room)
		if o.Notify && (o.Highlight || e.Ord > read.Plain) {
			n++
		}
	}
	return n, nil
}
