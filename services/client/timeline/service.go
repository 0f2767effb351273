package timeline

import (
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/httpx"
	"hanse/pkg/pg"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

// Deps are what reading rooms needs beyond the core.
type Deps struct {
	Access     *access.Access
	Shards     *pg.Shards
	Search     bool                  // whether there is an index of words
	Registerer prometheus.Registerer // may be nil
}

// Timeline answers what clients ask to read rooms.
type Timeline struct {
	*core.Core
	access        *access.Access
	shards        *pg.Shards // of the index of words
	searchEnabled bool
	large         *httpx.Large
}

// New makes the concern.
func New(c *core.Core, d Deps) *Timeline {
	return &Timeline{Core: c, access: d.Access, shards: d.Shards, searchEnabled: d.Search, large: httpx.NewLarge("client", d.Registerer)}
}

// Routes registers the endpoints. Which of them guests may use is in the section "Guest Access" of the client-server API.
func (c *Timeline) Routes(rt *core.Routes) {
	rt.Guest.Handle("GET /rooms/{roomId}/state", c.allState)
	rt.Guest.Handle("GET /rooms/{roomId}/state/{eventType}/{stateKey}", c.getState)
	rt.Guest.Handle("GET /rooms/{roomId}/state/{eventType}", c.getState)
	rt.Guest.Handle("GET /rooms/{roomId}/messages", c.messages)
	rt.Guest.Handle("GET /rooms/{roomId}/initialSync", c.roomInitialSync)
	rt.Guest.Handle("GET /rooms/{roomId}/context/{eventId}", c.eventContext)
	rt.Guest.Handle("GET /rooms/{roomId}/event/{eventId}", c.roomEvent)
	rt.Guest.Handle("GET /rooms/{roomId}/members", c.roomMembers)
	rt.Auth.Handle("GET /rooms/{roomId}/joined_members", c.joinedMembers)
	rt.AuthV1.Handle("GET /rooms/{roomId}/timestamp_to_event", c.timestampToEvent)
	rt.Auth.Handle("GET /joined_rooms", c.joinedRooms)
	c.relationRoutes(rt)
	rt.Auth.Handle("GET /notifications", c.notifications)
	rt.Auth.Handle("POST /search", c.search, httpx.MaxBody(maxSearchBody))
}
