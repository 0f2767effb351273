package people

import (
	"hanse/pkg/presence"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
	"hanse/services/client/sharing"
)

// People answers what clients ask about users.
type People struct {
	*core.Core
	sharing   *sharing.Sharing
	presence  *presence.Store
	searchAll bool
}

// New makes the concern and takes on its task. searchAll says whether everybody finds all local users.
func New(c *core.Core, s *sharing.Sharing, p *presence.Store, searchAll bool) *People {
	people := &People{Core: c, sharing: s, presence: p, searchAll: searchAll}
	c.Tasks.Do(userdb.TaskProfile, people.tellProfile)
	return people
}

// Routes registers the endpoints.
func (c *People) Routes(rt *core.Routes) {
	c.profileRoutes(rt)
	c.presenceRoutes(rt)
	c.mutualRoomsRoutes(rt)
	rt.Auth.Handle("POST /user_directory/search", c.searchUsers)
}
