package timeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/merr"
	"hanse/pkg/notify"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
	"hanse/services/client/core"
)

// What notified a user is nowhere stored: a message in a room would cost a row for each member. The list is found by looking at the
// user's rooms, those with the newest events first, and judging their newest events by the push rules as they are now.

const (
	defaultNotifications = 50
	maxNotifications     = 100
	// notifyReads bounds the reads for one page of whose events the rules leave too few.
	notifyReads = 5
	// notifyRooms bounds the rooms that are looked at, notifyStep how many at a time. The list ends with what is newer than all
	// of the other rooms.
	notifyRooms = 256
	notifyStep  = 32
)

// notification is an event that notified the user.
type notification struct {
	Actions []any           `json:"actions"`
	Event   json.RawMessage `json:"event"`
	Read    bool            `json:"read"`
	Room    id.Room         `json:"room_id"`
	TS      int64           `json:"ts"`

	event *roomdb.Event
}

// notifications answers GET /notifications (client-server API, "Listing Notifications").
func (c *Timeline) notifications(w http.ResponseWriter, r *http.Request) error {
	limit, err := core.QueryLimit(r, nil, defaultNotifications, maxNotifications)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	n := &notifier{c: c, user: core.Me(r).User, highlights: q.Get("only") == "highlight", limit: limit, end: math.MinInt64, at: roomdb.Notable{TS: math.MaxInt64}}
	if from := q.Get("from"); from != "" {
		if n.at, err = parseNotable(from); err != nil {
			return err
		}
	}
	if err := c.Limit(r, "search"); err != nil {
		return err
	}
	ctx := r.Context()
	if err := n.open(ctx); err != nil {
		return err
	}
	more, err := n.page(ctx)
	if err != nil {
		return err
	}
	if err := n.show(ctx, view.Format{User: n.user, Device: core.Me(r).Device, Now: time.Now()}); err != nil {
		return err
	}
	answer := map[string]any{"notifications": n.found}
	if more {
		answer["next_token"] = tokenOf(n.at)
	}
	return httpx.OK(w, answer)
}

// tokenOf names a place in the list.
func tokenOf(at roomdb.Notable) string {
	return fmt.Sprintf("n%d_%d_%d_%d", at.TS, at.Room.Part, at.Room.NID, at.Ord)
}

// parseNotable reads what tokenOf wrote, and nothing else.
func parseNotable(text string) (at roomdb.Notable, err error) {
	_, err = fmt.Sscanf(text, "n%d_%d_%d_%d", &at.TS, &at.Room.Part, &at.Room.NID, &at.Ord)
	if err != nil || tokenOf(at) != text || at.Room.Part > math.MaxInt32 {
		return at, merr.InvalidParam("from is not a token of this list")
	}
	return at, nil
}

// notifier makes a page of the list.
type notifier struct {
	c          *Timeline
	user       id.User
	highlights bool
	limit      int

	rules *notify.Rules
	rooms []roomdb.NotableSpan // those that are looked at, the one with the newest event first
	// end is the time of the newest event of the rooms that are not looked at.
	end   int64
	at    roomdb.Notable // the next page begins behind it
	found []*notification
}

// open finds out which of the user's rooms may notify.
func (n *notifier) open(ctx context.Context) error {
	var contents [2]json.RawMessage
	for i, typ := range []string{notify.PushRules, view.IgnoredUsers} {
		content, err := n.c.Users.AccountData(ctx, n.user, "", typ)
		if err != nil && !errors.Is(err, userdb.ErrNotFound) {
			return err
		}
		contents[i] = content
	}
	n.rules = notify.NewRules(n.user, nil, contents[0], contents[1])
	n.found = []*notification{}
	if n.rules.Off() {
		return nil
	}
	memberships, err := n.c.Users.Memberships(ctx, n.user)
	if err != nil {
		return err
	}
	joined := make(map[id.Room]int64)
	ids := make([]id.Room, 0, len(memberships))
	for _, m := range memberships {
		if m.Membership == core.Join && (n.rules.Own() || n.rules.Level(m.Room) != notify.None) {
			joined[m.Room], ids = m.JoinPos, append(ids, m.Room)
		}
	}
	rooms, err := n.c.Rooms.Rooms(ctx, ids)
	if err != nil {
		return err
	}
	for _, room := range rooms {
		s := roomdb.NotableSpan{RoomKey: room.Key(), After: joined[room.ID], Latest: room.Active, Every: n.rules.Own()}
		s.Mentions = !s.Every && (n.highlights || n.rules.Level(room.ID) == notify.Mentions)
		n.rooms = append(n.rooms, s)
	}
	slices.SortFunc(n.rooms, func(a, b roomdb.NotableSpan) int {
		return cmp.Or(cmp.Compare(b.Latest, a.Latest), cmp.Compare(a.Part, b.Part), cmp.Compare(a.NID, b.NID))
	})
	if len(n.rooms) > notifyRooms {
		n.end = n.rooms[notifyRooms].Latest
		n.rooms = n.rooms[:notifyRooms]
	}
	return nil
}

// page finds the page's notifications, and says whether there may be more.
func (n *notifier) page(ctx context.Context) (more bool, err error) {
	if n.limit == 0 {
		return false, nil
	}
	for range notifyReads {
		events, err := n.next(ctx)
		if err != nil {
			return false, err
		}
		judged, err := n.judge(ctx, events)
		if err != nil {
			return false, err
		}
		for i, found := range judged {
			n.at = events[i]
			if found == nil {
				continue
			}
			if n.found = append(n.found, found); len(n.found) == n.limit {
				return true, nil
			}
		}
		if len(events) < n.limit {
			return false, nil
		}
	}
	return true, nil
}

// next returns the events that come next in the list, as many as a page may have.
func (n *notifier) next(ctx context.Context) (events []roomdb.Notable, err error) {
	ignored := make([]id.User, 0, len(n.rules.Ignored))
	for u := range n.rules.Ignored {
		ignored = append(ignored, u)
	}
	for some := range slices.Chunk(n.rooms, notifyStep) {
		if len(events) >= n.limit && events[n.limit-1].TS > some[0].Latest {
			break // the other rooms have nothing as new
		}
		more, err := n.c.Rooms.Notables(ctx, n.user, ignored, some, n.at, n.limit)
		if err != nil {
			return nil, err
		}
		events = append(events, more...)
		slices.SortFunc(events, func(a, b roomdb.Notable) int {
			return cmp.Or(cmp.Compare(b.TS, a.TS), cmp.Compare(b.Room.Part, a.Room.Part), cmp.Compare(b.Room.NID, a.Room.NID), cmp.Compare(b.Ord, a.Ord))
		})
	}
	events = slices.DeleteFunc(events, func(e roomdb.Notable) bool { return e.TS <= n.end })
	return events[:min(len(events), n.limit)], nil
}

// judge applies the rules to events; nil stands for those that do not notify, or that the user may not see.
func (n *notifier) judge(ctx context.Context, list []roomdb.Notable) ([]*notification, error) {
	nids := make(map[uint32][]int64)
	for _, e := range list {
		nids[e.Room.Part] = append(nids[e.Room.Part], e.NID)
	}
	events, err := n.c.Rooms.EventsIn(ctx, nids)
	if err != nil {
		return nil, err
	}
	ofRoom := make(map[roomdb.RoomKey][]*roomdb.Event)
	for _, e := range list {
		if ev := events[e.Room.Part][e.NID]; ev != nil && ev.RedactedBy == 0 {
			ofRoom[e.Room] = append(ofRoom[e.Room], ev)
		}
	}
	outcomes := make(map[*roomdb.Event]pushrule.Outcome)
	for key, inRoom := range ofRoom {
		slices.SortFunc(inRoom, func(a, b *roomdb.Event) int { return cmp.Compare(a.Ord, b.Ord) }) // that costs the least
		seen, err := view.Visible(ctx, n.c.Rooms, view.Reader{User: n.user, Joined: true}, inRoom)
		if err != nil {
			return nil, err
		}
		room, err := notify.LoadRoom(ctx, n.c.Rooms, key, n.user)
		if err != nil {
			return nil, err
		}
		for _, e := range seen {
			outcomes[e] = n.rules.Judge(pushrule.NewView(e.PDU), e.PDU, room)
		}
	}
	judged := make([]*notification, len(list))
	for i, e := range list {
		ev := events[e.Room.Part][e.NID]
		if o := outcomes[ev]; o.Notify && (o.Highlight || !n.highlights) {
			judged[i] = &notification{Actions: actions(o), Room: ev.RoomID, TS: e.TS, event: ev}
		}
	}
	return judged, nil
}

// actions are what a rule says, in the form of the specification.
func actions(o pushrule.Outcome) []any {
	list := []any{"notify"}
	for _, t := range o.Tweaks {
		tweak := map[string]any{"set_tweak": t.Name}
		if len(t.Value) > 0 {
			tweak["value"] = t.Value
		}
		list = append(list, tweak)
	}
	return list
}

// show adds the events, and whether they are read.
func (n *notifier) show(ctx context.Context, f view.Format) error {
	events := make([]*roomdb.Event, len(n.found))
	keys := make(map[roomdb.RoomKey]bool)
	for i, found := range n.found {
		events[i] = found.event
		keys[roomdb.RoomKey{Part: found.event.Part, NID: found.event.RoomNID}] = true
	}
	rendered, err := view.Render(ctx, n.c.Rooms, f, events)
	if err != nil {
		return err
	}
	rooms := make([]roomdb.RoomKey, 0, len(keys))
	for key := range keys {
		rooms = append(rooms, key)
	}
	receipts, err := n.c.Rooms.ReceiptsOf(ctx, rooms, n.user)
	if err != nil {
		return err
	}
	for i, found := range n.found {
		var read notify.Read
		read.Take(receipts[roomdb.RoomKey{Part: found.event.Part, NID: found.event.RoomNID}])
		found.Event, found.Read = rendered[i], read.Has(found.event.Ord, notify.ThreadOf(found.event.PDU))
	}
	return nil
}
