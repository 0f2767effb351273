package rooms

import (
	"hanse/pkg/bus"
	"hanse/pkg/httpx"
	"hanse/pkg/roomdir"
	"hanse/pkg/userdb"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/directory"
)

// Deps are what acting in rooms needs beyond the core.
type Deps struct {
	Access    *access.Access
	Directory *directory.Directory
	Aliases   *roomdir.DB
	Bus       *bus.Bus
	Version   string // of new rooms for which clients ask for none
}

// Rooms does what clients ask to do in rooms.
type Rooms struct {
	*core.Core
	access    *access.Access
	directory *directory.Directory
	dir       *roomdir.DB
	bus       *bus.Bus
	version   string
}

// New makes the concern and takes on its tasks.
func New(c *core.Core, d Deps) *Rooms {
	r := &Rooms{Core: c, access: d.Access, directory: d.Directory, dir: d.Aliases, bus: d.Bus, version: d.Version}
	c.Tasks.Do(userdb.TaskSuccession, r.carryAlong)
	c.Tasks.Do(userdb.TaskGuests, r.removeGuests)
	return r
}

// Routes registers the endpoints. Which of them guests may use is in the section "Guest Access" of the client-server API.
func (c *Rooms) Routes(rt *core.Routes) {
	large := httpx.MaxBody(maxEventBody)
	rt.Guest.Handle("PUT /rooms/{roomId}/send/{eventType}/{txnId}", c.sendEvent, large)
	rt.Guest.Handle("PUT /rooms/{roomId}/state/{eventType}/{stateKey}", c.putState, large)
	rt.Guest.Handle("PUT /rooms/{roomId}/state/{eventType}", c.putState, large)
	rt.Auth.Handle("PUT /rooms/{roomId}/redact/{eventId}/{txnId}", c.redact, large)
	rt.Auth.Handle("POST /createRoom", c.createRoom, httpx.MaxBody(maxCreateBody))
	rt.Auth.Handle("POST /rooms/{roomId}/upgrade", c.upgradeRoom)
	rt.Auth.Handle("POST /rooms/{roomId}/receipt/{receiptType}/{eventId}", c.postReceipt)
	rt.Auth.Handle("POST /rooms/{roomId}/read_markers", c.readMarkers)
	rt.Auth.Handle("PUT /rooms/{roomId}/typing/{userId}", c.typing)
	c.membershipRoutes(rt)
	c.reportRoutes(rt)
}

func (c *Rooms) membershipRoutes(rt *core.Routes) {
	rt.Guest.Handle("POST /rooms/{roomId}/join", c.joinRoom)
	rt.Guest.Handle("POST /join/{roomIdOrAlias}", c.joinAny)
	rt.Auth.Handle("POST /knock/{roomIdOrAlias}", c.knockRoom)
	rt.Guest.Handle("POST /rooms/{roomId}/leave", c.leaveRoom)
	rt.Auth.Handle("POST /rooms/{roomId}/forget", c.forgetRoom)
	rt.Auth.Handle("POST /rooms/{roomId}/invite", c.inviteUser)
	rt.Auth.Handle("POST /rooms/{roomId}/kick", c.kickUser)
	rt.Auth.Handle("POST /rooms/{roomId}/ban", c.banUser)
	rt.Auth.Handle("POST /rooms/{roomId}/unban", c.unbanUser)
}
