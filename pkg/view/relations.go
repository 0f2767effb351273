package view

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Bundle is what an event's unsigned data says of those that relate to it (client-server API, "Aggregations of child events").
type Bundle struct {
	edit       *roomdb.Event
	thread     *thread
	references []id.Event
}

// thread is the thread on an event.
type thread struct {
	latest *roomdb.Event
	edit   *roomdb.Event // of the latest reply; nil if there is none
	count  int64
	// in says of one reader that they take part, takesPart who does of all.
	in        bool
	takesPart map[id.User]struct{}
}

// Bundles has those of the events to which something relates.
type Bundles map[*roomdb.Event]*Bundle

// Bundled finds what is said of those that relate to some events, for a reader: of one room, or of several that the reader is in.
func Bundled(ctx context.Context, db *roomdb.DB, r Reader, ignored Ignored, events []*roomdb.Event) (Bundles, error) {
	q := roomdb.AggregateQuery{Reader: r.User, Ignored: slices.Collect(maps.Keys(ignored)), UpTo: roomdb.End}
	if !r.Joined && r.JoinedUntil != 0 {
		q.UpTo = r.JoinedUntil
	}
	bundles, _, err := bundled(ctx, db, q, r, events)
	return bundles, err
}

// BundledForAll is Bundled for everybody who is in the events' rooms and ignores nobody. It also returns the rooms of which it
// cannot tell: not everybody may see all of it, or too many users take part in a thread.
func BundledForAll(ctx context.Context, db *roomdb.DB, events []*roomdb.Event) (b Bundles, closed map[roomdb.RoomKey]bool, err error) {
	return bundled(ctx, db, roomdb.AggregateQuery{UpTo: roomdb.End}, Reader{Joined: true}, events)
}

func bundled(ctx context.Context, db *roomdb.DB, q roomdb.AggregateQuery, r Reader, events []*roomdb.Event) (Bundles, map[roomdb.RoomKey]bool, error) {
	var parents []*roomdb.Event
	for _, e := range events {
		// Edits and annotations are not related to (as Synapse has it), and state has no aggregations yet.
		if typ := event.RelationType(e.Content); e.StateKey == nil && typ != event.Replace && typ != event.Annotation {
			parents = append(parents, e)
		}
	}
	if len(parents) == 0 {
		return nil, nil, nil
	}
	found, err := db.Aggregates(ctx, q, parents)
	if err != nil || len(found) == 0 {
		return nil, nil, err
	}
	shown, closed, err := shownIn(ctx, db, r, found)
	if err != nil {
		return nil, nil, err
	}
	bundles := make(Bundles, len(found))
	for e, a := range found {
		if a.Crowded() {
			closed[roomOf(e)] = true
			continue
		}
		of := shown[e.Part]
		b := &Bundle{references: a.References}
		if e.RedactedBy == 0 {
			b.edit = of[a.Edit]
		}
		if latest := of[a.Latest]; latest != nil && a.Replies > 0 && event.RelationType(e.Content) == "" {
			b.thread = &thread{latest: latest, edit: of[a.LatestEdit], count: a.Replies, in: a.Own > 0 || e.Sender == q.Reader, takesPart: a.TakesPart}
			if a.TakesPart != nil {
				a.TakesPart[e.Sender] = struct{}{}
			}
		}
		if b.edit != nil || b.thread != nil || len(b.references) > 0 {
			bundles[e] = b
		}
	}
	return bundles, closed, nil
}

func roomOf(e *roomdb.Event) roomdb.RoomKey { return roomdb.RoomKey{Part: e.Part, NID: e.RoomNID} }

// shownIn reads the events that bundles show, by partition and number, as far as the reader may see them, and returns the rooms in which
// there are others.
func shownIn(ctx context.Context, db *roomdb.DB, r Reader, found map[*roomdb.Event]*roomdb.Aggregate) (shown map[uint32]map[int64]*roomdb.Event, closed map[roomdb.RoomKey]bool, err error) {
	nids := make(map[uint32][]int64)
	for e, a := range found {
		for _, nid := range []int64{a.Edit, a.Latest, a.LatestEdit} {
			if nid != 0 {
				nids[e.Part] = append(nids[e.Part], nid)
			}
		}
	}
	closed = make(map[roomdb.RoomKey]bool)
	if len(nids) == 0 {
		return nil, closed, nil
	}
	stored, err := db.EventsIn(ctx, nids)
	if err != nil {
		return nil, nil, err
	}
	rooms := make(map[roomdb.RoomKey][]*roomdb.Event)
	for _, events := range stored {
		for _, e := range events {
			rooms[roomOf(e)] = append(rooms[roomOf(e)], e)
		}
	}
	shown = make(map[uint32]map[int64]*roomdb.Event, len(stored))
	for room, events := range rooms {
		slices.SortFunc(events, func(a, b *roomdb.Event) int { return cmp.Compare(a.Place(), b.Place()) })
		seen, err := Visible(ctx, db, r, events)
		if err != nil {
			return nil, nil, err
		}
		closed[room] = len(seen) < len(events)
		if shown[room.Part] == nil {
			shown[room.Part] = make(map[int64]*roomdb.Event)
		}
		for _, e := range seen {
			if e.RedactedBy == 0 { // redacted since we asked what relates
				shown[room.Part][e.NID] = e
			}
		}
	}
	return shown, closed, nil
}

// Size is about how many bytes the bundle takes.
func (b *Bundle) Size() int {
	if b == nil {
		return 0
	}
	n := 200 + 80*len(b.references)
	events := []*roomdb.Event{b.edit}
	if t := b.thread; t != nil {
		events = append(events, t.latest, t.edit)
		n += 80 * len(t.takesPart)
	}
	for _, e := range events {
		if e != nil {
			n += 2*e.Size() + 600
		}
	}
	return n
}

// append appends the member m.relations of the unsigned data.
func (b *Bundle) append(out []byte, f *Format) []byte {
	if b == nil {
		return out
	}
	out = append(out, `,"m.relations":{`...)
	start := len(out)
	if b.edit != nil {
		out = f.appendNested(append(out, `"m.replace":`...), b.edit, nil)
	}
	if b.thread != nil {
		out = b.thread.append(comma(out, start), f)
	}
	if len(b.references) > 0 {
		out = append(comma(out, start), `"m.reference":{"chunk":[`...)
		for i, e := range b.references {
			if i > 0 {
				out = append(out, ',')
			}
			out = canonjson.AppendString(append(out, `{"event_id":`...), string(e))
			out = append(out, '}')
		}
		out = append(out, `]}`...)
	}
	return append(out, '}')
}

// comma appends one if there is something before.
func comma(out []byte, start int) []byte {
	if len(out) > start {
		out = append(out, ',')
	}
	return out
}

func (t *thread) append(out []byte, f *Format) []byte {
	out = append(out, `"m.thread":{"count":`...)
	out = strconv.AppendInt(out, t.count, 10)
	in := t.in
	if t.takesPart != nil {
		_, in = t.takesPart[f.User]
	}
	out = append(out, `,"current_user_participated":`...)
	out = strconv.AppendBool(out, in)
	var of *Bundle
	if t.edit != nil {
		of = &Bundle{edit: t.edit}
	}
	out = f.appendNested(append(out, `,"latest_event":`...), t.latest, of)
	return append(out, '}')
}

// appendNested appends an event inside of another one.
func (f *Format) appendNested(b []byte, e *roomdb.Event, of *Bundle) []byte {
	return f.appendEnd(f.appendHead(b, e, nil), mark{ts: e.OriginServerTS, cause: e.Cause, bundle: of}, "")
}

// HasThread says whether there is a thread on the event.
func (b *Bundle) HasThread() bool { return b != nil && b.thread != nil }

// OnlyThread is the bundle without what replaces the event's content.
func (b *Bundle) OnlyThread() *Bundle { return &Bundle{thread: b.thread, references: b.references} }
