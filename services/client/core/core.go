package core

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"hanse/pkg/asquery"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
)

// Servers are the names that the cluster serves.
type Servers interface {
	// IsLocal reports whether the name is one of ours.
	IsLocal(id.Server) bool
	// ForHost returns the name that a request with this Host header is for.
	ForHost(host string) id.Server
}

// Limiter is the rate limits of the client API.
type Limiter interface {
	// Allow takes one action of a kind from the budget of a key, a user or an address. It returns a *merr.Error
	// (M_LIMIT_EXCEEDED) if there is none left.
	Allow(ctx context.Context, kind, key string) error
}

// Deps are what the core is built from.
type Deps struct {
	Users    *userdb.DB
	Rooms    *roomdb.DB
	Router   roomowner.Router
	Servers  Servers
	Sessions *session.Checker
	Limits   Limiter
	FedOut   fedv1.FedOutClient // nil: other servers cannot be asked
	Queries  *asquery.Client    // nil: there is no application service to ask
	Quotas   Quotas             // with an InfoURI
	// TaskInterval is how often a worker looks for tasks that another one left behind.
	TaskInterval time.Duration
	Log          *slog.Logger
}

// Core is what the concerns of the role share.
type Core struct {
	Users    *userdb.DB
	Rooms    *roomdb.DB
	Router   roomowner.Router // to the owners of rooms
	Servers  Servers
	Sessions *session.Checker
	Queries  *asquery.Client // to application services
	Quotas   Quotas
	Tasks    *Tasks
	Log      *slog.Logger

	limits Limiter
	fedout fedv1.FedOutClient
}

// New makes a core; nothing runs before Tasks.Run.
func New(d Deps) *Core {
	return &Core{
		Users: d.Users, Rooms: d.Rooms, Router: d.Router, Servers: d.Servers, Sessions: d.Sessions, Queries: d.Queries, Quotas: d.Quotas, Log: d.Log,
		Tasks: newTasks(d), limits: d.Limits, fedout: d.FedOut,
	}
}

// Server returns the server name that a request is for.
func (c *Core) Server(r *http.Request) id.Server { return c.Servers.ForHost(r.Host) }

// IsLocal reports whether a user is one of ours.
func (c *Core) IsLocal(u id.User) bool { return c.Servers.IsLocal(u.Server()) }
