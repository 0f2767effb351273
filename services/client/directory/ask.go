package directory

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"

	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdir"
)

const (
	// summaryTime bounds the question to one other server, summaryServers how many are asked for a room.
	summaryTime    = 10 * time.Second
	summaryServers = 3
	// toldAge is how long what a server told of a room is kept: the pages of a walk, and all users, share it. toldNothing is how long
	// a server that told nothing is not asked for that room again.
	toldAge     = 5 * time.Minute
	toldNothing = 30 * time.Second
	// toldBudget bounds what is kept, in bytes.
	toldBudget = 16 << 20
)

// told is what a server told of a room and the rooms below it: room is nil if it does not know the room, or did not answer. It is
// shared, and not changed.
type told struct {
	room  *knownRoom
	below map[id.Room]*knownRoom
	at    time.Time
}

func (t *told) holds() bool { return t.room != nil || time.Since(t.at) < toldNothing }

// question is one for a room, to a server, by one of ours: other servers tell only what the one that asks may know.
type question struct {
	origin, server id.Server
	room           id.Room
}

// asker asks other servers for rooms: each server once for a room, however many want to know.
type asker struct {
	told   *cache.Cache[question, *told]
	flight singleflight.Group
}

func newAsker(metrics prometheus.Registerer) *asker {
	return &asker{told: cache.New(cache.Config[question, *told]{Name: "hierarchy", Budget: toldBudget, MaxAge: toldAge, Weigh: weigh, Metrics: metrics})}
}

func weigh(q question, t *told) int64 {
	n := int64(len(q.origin)+len(q.server)+len(q.room)) + 200
	if t.room != nil {
		n += t.room.weight()
	}
	for _, r := range t.below {
		n += r.weight()
	}
	return n
}

func (r *knownRoom) weight() int64 {
	n := 600 + len(r.RoomID) + len(r.Name) + len(r.Topic) + len(r.AvatarURL) + len(r.CanonicalAlias) + 64*len(r.AllowedRooms)
	for _, c := range r.Children {
		n += 2*len(c.JSON) + 32*len(c.Via) + 200
	}
	return int64(n)
}

// askSummary asks servers that may be in a room, until one knows it. The rooms below it that the answer tells of come along. asks
// counts the requests of a walk, of which there are no more than maxHierarchyAsks.
func (c *Directory) askSummary(ctx context.Context, origin id.Server, user id.User, t Target, asks *int) (*knownRoom, map[id.Room]*knownRoom, error) {
	var servers []id.Server
	for _, server := range append(slices.Clone(t.Servers), t.Room.Server()) {
		if server != "" && !c.Servers.IsLocal(server) && !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	for _, server := range servers[:min(len(servers), summaryServers)] {
		q := question{origin, server, t.Room}
		answer, ok := c.asker.told.Get(q)
		if !ok || !answer.holds() {
			if *asks++; *asks > maxHierarchyAsks {
				return nil, nil, nil
			}
			var err error
			if answer, err = c.ask(ctx, q); err != nil {
				return nil, nil, err
			}
		}
		if answer.room == nil {
			continue
		}
		room, err := c.shown(ctx, user, answer.room)
		if err != nil || room == nil {
			return nil, nil, err
		}
		return room, answer.below, nil
	}
	return nil, nil, nil
}

// shown returns what a server told of a room to one user, nil if that may not be shown to them.
func (c *Directory) shown(ctx context.Context, user id.User, room *knownRoom) (*knownRoom, error) {
	own := *room
	may, err := c.mayKnow(ctx, user, &own)
	if err != nil || !may {
		return nil, err
	}
	return &own, nil
}

// ask makes a request, or waits for one that is under way. It does not end with the request of a client, as others may wait for it.
func (c *Directory) ask(ctx context.Context, q question) (*told, error) {
	key := string(q.origin) + "\x00" + string(q.server) + "\x00" + string(q.room)
	answer := c.asker.flight.DoChan(key, func() (any, error) {
		t := c.request(context.WithoutCancel(ctx), q)
		c.asker.told.Add(q, t)
		return t, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-answer:
		return r.Val.(*told), nil
	}
}

func (c *Directory) request(ctx context.Context, q question) *told {
	var answer struct {
		Room     *knownRoom   `json:"room"`
		Children []*knownRoom `json:"children"`
	}
	t := &told{at: time.Now()}
	uri := "/_matrix/federation/v1/hierarchy/" + url.PathEscape(string(q.room)) + "?suggested_only=false"
	if err := c.FederateSparing(ctx, q.origin, q.server, http.MethodGet, uri, nil, &answer, summaryTime); err != nil {
		c.Log.DebugContext(ctx, "ask for a room", "room", q.room, "server", q.server, "err", err)
		return t
	}
	if answer.Room == nil || answer.Room.Summary == nil || answer.Room.RoomID != q.room {
		return t
	}
	t.room = answer.Room
	readChildren(t.room)
	t.below = make(map[id.Room]*knownRoom, len(answer.Children))
	for _, child := range answer.Children {
		if child == nil || child.Summary == nil || child.IsSpace() {
			continue // the rooms below a space further down are asked for when it is reached
		}
		child.ChildrenState = []json.RawMessage{}
		t.below[child.RoomID] = child
	}
	return t
}

// AdmitsGuests asks servers that may be in a room whether guests may join it.
func (c *Directory) AdmitsGuests(ctx context.Context, origin id.Server, user id.User, t Target) (bool, error) {
	room, _, err := c.askSummary(ctx, origin, user, t, new(int))
	return room != nil && room.GuestCanJoin, err
}

// readChildren makes children of what another server sent as such.
func readChildren(room *knownRoom) {
	state := room.ChildrenState
	room.ChildrenState, room.Children = []json.RawMessage{}, nil
	if !room.IsSpace() {
		return
	}
	for _, raw := range state {
		e := gjson.ParseBytes(raw)
		child := roomdir.Child{Sent: e.Get("origin_server_ts").Int(), Suggested: e.Get("content.suggested").Type == gjson.True, JSON: raw}
		var err error
		if child.Room, err = id.ParseRoom(e.Get("state_key").Str); err != nil || e.Get("type").Str != "m.space.child" {
			continue
		}
		if order := e.Get("content.order").Str; roomdir.ValidOrder(order) {
			child.Order = order
		}
		for _, v := range e.Get("content.via").Array() {
			if s, err := id.ParseServer(v.Str); err == nil && len(child.Via) < maxVia {
				child.Via = append(child.Via, s)
			}
		}
		room.Children = append(room.Children, child)
		room.ChildrenState = append(room.ChildrenState, raw)
	}
}
