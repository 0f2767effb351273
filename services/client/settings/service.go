package settings

import (
	"hanse/pkg/bus"
	"hanse/pkg/netguard"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

// Settings answers what clients ask about users' settings.
type Settings struct {
	*core.Core
	access *access.Access
	bus    *bus.Bus
	guard  *netguard.Guard
}

// New makes the concern. The guard says which addresses push gateways may have.
func New(c *core.Core, a *access.Access, b *bus.Bus, guard *netguard.Guard) *Settings {
	return &Settings{Core: c, access: a, bus: b, guard: guard}
}

// Routes registers the endpoints.
func (c *Settings) Routes(rt *core.Routes) {
	c.accountDataRoutes(rt)
	c.filterRoutes(rt)
	c.pushRuleRoutes(rt)
	c.pusherRoutes(rt)
}
