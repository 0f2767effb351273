package admin

import (
	"errors"
	"fmt"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/password"
	"hanse/pkg/pg"
	"hanse/pkg/servers"
	"hanse/pkg/userdb"
)

// Deps is what the administration works on.
type Deps struct {
	// Names are the server names that the configuration gives the cluster; the first is meant where none is named.
	Names  []id.Server
	Shards *pg.Shards
	// Bus tells running workers of changes.
	Bus      Bus
	Password password.Config
	// AppserviceFiles are the configured registration files of application services.
	AppserviceFiles []string
}

// Bus tells running workers of changes; what it loses they find out from the database.
type Bus interface {
	userdb.Bus
	// PublishAppservices says that the stored application services have changed.
	PublishAppservices() error
}

// Admin is the administration of one cluster.
type Admin struct {
	names  []id.Server
	shards *pg.Shards
	users  *userdb.DB
	out    Bus
	hasher *password.Hasher
	files  []string // registrations of application services
}

// New returns the administration of the cluster whose databases are open.
func New(d Deps) (*Admin, error) {
	if len(d.Names) == 0 {
		return nil, errors.New("admin: no server name")
	}
	return &Admin{names: d.Names, shards: d.Shards, out: d.Bus, users: userdb.New(d.Shards, d.Bus), hasher: password.New(d.Password), files: d.AppserviceFiles}, nil
}

// server returns the name of the cluster that an operator means; "" is the first one.
func (a *Admin) server(name string) (id.Server, error) {
	if name == "" {
		return a.names[0], nil
	}
	if !a.isLocal(id.Server(name)) {
		return "", fmt.Errorf("%s: %w, which serves %v", name, servers.ErrNotLocal, a.names)
	}
	return id.Server(name), nil
}

func (a *Admin) isLocal(server id.Server) bool { return slices.Contains(a.names, server) }
