package view

import (
	"context"
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// StateList writes the state events of one room for one reader, however many they are: what is stored is copied, and not
// parsed unless an event is unusual. Nothing of it is cached.
type StateList struct {
	DB     *roomdb.DB
	Format Format
	Room   roomdb.RoomKey
	// RoomID is for Format.WithRoomID.
	RoomID id.Room
	// Keep says which events are wanted by their contents; nil for all.
	Keep func(content []byte) bool
}

// stateStep is how many events Append looks at at a time.
const stateStep = 2000

// Steps cuts the numbers of events into what is given to Append at a time: so much is held in memory. It sorts them, as
// what lies together in PostgreSQL is cheaper to read.
func Steps(nids []int64) func(yield func([]int64) bool) {
	slices.Sort(nids)
	return slices.Chunk(nids, stateStep)
}

// Append appends what Append for events appends for those of the events that exist and are wanted, with commas between
// them, in any order. The numbers are in ascending order.
func (l *StateList) Append(ctx context.Context, b []byte, nids []int64) ([]byte, error) {
	w := stateWriter{StateList: l, b: b, start: len(b)}
	if l.Format.WithRoomID {
		w.room = l.RoomID
	}
	if err := l.DB.EachRaw(ctx, l.Room, nids, w.add); err != nil {
		return nil, err
	}
	if err := w.addReplacing(ctx); err != nil {
		return nil, err
	}
	return w.b, w.addUnusual(ctx)
}

type stateWriter struct {
	*StateList
	room  id.Room
	b     []byte
	start int
	// replacing are events that show what they replaced, unusual the numbers of those that have to be parsed.
	replacing []replacing
	unusual   []int64
}

type replacing struct {
	nid, replaces int64
	id, json      []byte
}

// add writes an event, or puts it off.
func (w *stateWriter) add(r *roomdb.Raw) error {
	if r.RedactedBy != 0 {
		w.unusual = append(w.unusual, r.NID)
		return nil
	}
	s, ok := event.ParseStored(r.JSON)
	switch {
	case !ok:
		w.unusual = append(w.unusual, r.NID)
	case w.Keep != nil && !w.Keep(s.Content):
	case r.Replaces != 0:
		w.replacing = append(w.replacing, replacing{r.NID, r.Replaces, slices.Clone(r.ID), slices.Clone(r.JSON)})
	default:
		w.head(&s, r.ID)
		w.end(&s)
	}
	return nil
}

func (w *stateWriter) head(s *event.Stored, eventID []byte) {
	if len(w.b) > w.start {
		w.b = append(w.b, ',')
	}
	w.b = s.AppendClient(w.b, eventID, w.room)
	w.b = append(w.b, `,"unsigned":{`...)
}

// end appends the age. State events are sent without a transaction id.
func (w *stateWriter) end(s *event.Stored) {
	w.b = append(w.b, `"age":`...)
	w.b = w.Format.appendEnd(w.b, mark{ts: s.OriginServerTS}, "")
}

// addReplacing writes the events that show what they replaced.
func (w *stateWriter) addReplacing(ctx context.Context) error {
	replaced := make([]int64, len(w.replacing))
	for i, r := range w.replacing {
		replaced[i] = r.replaces
	}
	slices.Sort(replaced)
	type shown struct{ id, json []byte } // json is nil if it has to be parsed
	found := make(map[int64]shown, len(replaced))
	err := w.DB.EachRaw(ctx, w.Room, slices.Compact(replaced), func(r *roomdb.Raw) error {
		s := shown{id: slices.Clone(r.ID)}
		if r.RedactedBy == 0 {
			s.json = slices.Clone(r.JSON)
		}
		found[r.NID] = s
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range w.replacing {
		prev, exists := found[r.replaces]
		before, ok := event.ParseStored(prev.json)
		if exists && !ok {
			w.unusual = append(w.unusual, r.nid)
			continue
		}
		s, _ := event.ParseStored(r.json)
		w.head(&s, r.id)
		if exists {
			w.b = appendReplaced(w.b, before.Content, before.Sender, prev.id)
		}
		w.end(&s)
	}
	return nil
}

// addUnusual writes events as Append does.
func (w *stateWriter) addUnusual(ctx context.Context) error {
	if len(w.unusual) == 0 {
		return nil
	}
	found, err := w.DB.EventsOnce(ctx, w.Room.Part, w.unusual)
	if err != nil {
		return err
	}
	var events []*roomdb.Event
	for _, nid := range w.unusual {
		if e := found[nid]; e != nil && (w.Keep == nil || w.Keep(e.Content)) {
			events = append(events, e)
		}
	}
	if len(events) > 0 && len(w.b) > w.start {
		w.b = append(w.b, ',')
	}
	w.b, err = Append(ctx, w.DB, w.Format, w.b, events)
	return err
}
