package keys

import (
	"hanse/pkg/userdb"
	"hanse/services/client/account"
	"hanse/services/client/core"
	"hanse/services/client/sharing"
	"hanse/services/client/uia"
)

// Keys answers what clients ask about keys.
type Keys struct {
	*core.Core
	account *account.Account
	sharing *sharing.Sharing
	uia     *uia.UIA
}

// New makes the concern and takes on its task.
func New(c *core.Core, a *account.Account, s *sharing.Sharing, u *uia.UIA) *Keys {
	k := &Keys{Core: c, account: a, sharing: s, uia: u}
	c.Tasks.Do(userdb.TaskDevices, k.tellDevices)
	return k
}

// Routes registers the endpoints.
func (c *Keys) Routes(rt *core.Routes) {
	c.keyRoutes(rt)
	c.crossSigningRoutes(rt)
	c.backupRoutes(rt)
	c.dehydratedRoutes(rt)
	c.toDeviceRoutes(rt)
}
