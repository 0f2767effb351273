package directory

import (
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/appservice"
	"hanse/pkg/roomdir"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

// Directory answers what clients ask to find rooms.
type Directory struct {
	*core.Core
	access *access.Access
	dir    *roomdir.DB
	apps   *appservice.Registry
	asker  *asker
}

// New makes the concern. metrics may be nil.
func New(c *core.Core, a *access.Access, dir *roomdir.DB, apps *appservice.Registry, metrics prometheus.Registerer) *Directory {
	return &Directory{Core: c, access: a, dir: dir, apps: apps, asker: newAsker(metrics)}
}

// Routes registers the endpoints.
func (c *Directory) Routes(rt *core.Routes) {
	rt.Auth.Handle("GET /rooms/{roomId}/aliases", c.roomAliases)
	rt.Unstable("/org.matrix.msc2432").Handle("GET /rooms/{roomId}/aliases", c.roomAliases)
	rt.Open.Handle("GET /directory/room/{roomAlias}", c.getAlias)
	rt.Auth.Handle("PUT /directory/room/{roomAlias}", c.putAlias)
	rt.Auth.Handle("DELETE /directory/room/{roomAlias}", c.deleteAlias)
	rt.Open.Handle("GET /directory/list/room/{roomId}", c.getListed)
	rt.Auth.Handle("PUT /directory/list/room/{roomId}", c.putListed)
	rt.Open.Handle("GET /publicRooms", rt.Optional(c.getPublicRooms))
	rt.Auth.Handle("POST /publicRooms", c.postPublicRooms)
	rt.OpenV1.Handle("GET /room_summary/{roomIdOrAlias}", rt.Optional(c.roomSummary))
	rt.AuthV1.Handle("GET /rooms/{roomId}/hierarchy", c.hierarchy)
	unstable := rt.Root.Group("/_matrix/client/unstable/im.nheko.summary")
	unstable.Handle("GET /summary/{roomIdOrAlias}", rt.Optional(c.roomSummary))
	unstable.Handle("GET /rooms/{roomIdOrAlias}/summary", rt.Optional(c.roomSummary))
}
