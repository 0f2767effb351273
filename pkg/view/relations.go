package view

import (
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

// Bundles has those of the events to which something relates, by their numbers.
type Bundles map[int64]*Bundle

// Bundled finds what is said of those that relate to some events of one room, for a reader.
func Bundled(ctx context.Context, db *roomdb.DB, r Reader, ignored Ignored, events []*roomdb.Event) (Bundles, error) {
	q := roomdb.AggregateQuery{Reader: r.User, Ignored: slices.Collect(maps.Keys(ignored)), UpTo: roomdb.End}
	if !r.Joined && r.JoinedUntil != 0 {
		q.UpTo = r.JoinedUntil
	}
	bundles, _, err := bundled(ctx, db, q, r, events)
	return bundles, err
}

// BundledForAll is Bundled for whoever is in the room, sees all of it and ignores nobody. It is not ok if too many users take part
// in a thread for Bundles to hold.
func BundledForAll(ctx context.Context, db *roomdb.DB, events []*roomdb.Event) (b Bundles, ok bool, err error) {
	return bundled(ctx, db, roomdb.AggregateQuery{UpTo: roomdb.End}, Reader{Joined: true}, events)
}

func bundled(ctx context.Context, db *roomdb.DB, q roomdb.AggregateQuery, r Reader, events []*roomdb.Event) (Bundles, bool, error) {
	var parents []*roomdb.Event
	for _, e := range events {
		// Edits and annotations are not related to (as Synapse has it), and state has no aggregations yet.
		if typ := event.RelationType(e.Content); e.StateKey == nil && typ != event.Replace && typ != event.Annotation {
			parents = append(parents, e)
		}
	}
	found, err := db.Aggregates(ctx, q, parents)
	if err != nil || len(found) == 0 {
		return nil, true, err
	}
	shown, err := shownIn(ctx, db, r, events[0].Part, found)
	if err != nil {
		return nil, false, err
	}
	bundles := make(Bundles, len(found))
	for _, e := range parents {
		a := found[e.NID]
		if a == nil {
			continue
		}
		if len(a.TakesPart) > roomdb.MaxTakingPart {
			return nil, false, nil
		}
		b := &Bundle{references: a.References}
		if e.RedactedBy == 0 {
			b.edit = shown[a.Edit]
		}
		if latest := shown[a.Latest]; latest != nil && a.Replies > 0 && event.RelationType(e.Content) == "" {
			b.thread = &thread{latest: latest, edit: shown[a.LatestEdit], count: a.Replies, in: a.Own > 0 || e.Sender == q.Reader, takesPart: a.TakesPart}
			if a.TakesPart != nil {
				a.TakesPart[e.Sender] = struct{}{}
			}
		}
		if b.edit != nil || b.thread != nil || len(b.references) > 0 {
			bundles[e.NID] = b
		}
	}
	return bundles, true, nil
}

// shownIn reads the events that bundles show, as far as the reader may see them.
func shownIn(ctx context.Context, db *roomdb.DB, r Reader, part uint32, found map[int64]*roomdb.Aggregate) (map[int64]*roomdb.Event, error) {
	var nids []int64
	for _, a := range found {
		for _, nid := range []int64{a.Edit, a.Latest, a.LatestEdit} {
			if nid != 0 {
				nids = append(nids, nid)
			}
		}
	}
	if len(nids) == 0 {
		return nil, nil
	}
	stored, err := db.Events(ctx, part, nids)
	if err != nil {
		return nil, err
	}
	seen, err := Visible(ctx, db, r, slices.SortedFunc(maps.Values(stored), func(a, b *roomdb.Event) int { return int(a.Place() - b.Place()) }))
	if err != nil {
		return nil, err
	}
	shown := make(map[int64]*roomdb.Event, len(seen))
	for _, e := range seen {
		if e.RedactedBy == 0 { // redacted since we asked what relates
			shown[e.NID] = e
		}
	}
	return shown, nil
}

// size is about how many bytes the bundle takes.
func (b *Bundle) size() int {
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
	return f.appendEnd(f.appendHead(b, e, nil), mark{ts: e.OriginServerTS, cause: e.Cause, bundle: of})
}

// HasThread says whether there is a thread on the event.
func (b *Bundle) HasThread() bool { return b != nil && b.thread != nil }

// OnlyThread is the bundle without what replaces the event's content.
func (b *Bundle) OnlyThread() *Bundle { return &Bundle{thread: b.thread, references: b.references} }
