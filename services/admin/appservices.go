package admin

import (
	"context"
	"fmt"

	"hanse/pkg/appservice"
	"hanse/pkg/matrix/id"
)

// Appservices returns all application services: those of the configured files, then those that were added.
func (a *Admin) Appservices(ctx context.Context) ([]*appservice.Service, error) {
	files, err := appservice.LoadFiles(a.files, a.names)
	if err != nil {
		return nil, err
	}
	stored, err := a.services().List(ctx)
	return append(files, stored...), err
}

// Appservice returns one of them.
func (a *Admin) Appservice(ctx context.Context, name string) (*appservice.Service, error) {
	all, err := a.Appservices(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.ID == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("there is no application service %q", name)
}

// AddAppservice adds the application service of a registration, in YAML, or replaces the one with its id. server is the name of the
// cluster that it belongs to; "" is the one that the registration names (server_name), or else the first one. Running workers know
// it in a few seconds.
func (a *Admin) AddAppservice(ctx context.Context, registration []byte, server string, replace bool) (*appservice.Service, error) {
	name, err := a.server(server)
	if err != nil {
		return nil, err
	}
	s, err := appservice.Parse(registration, append([]id.Server{name}, a.names...)...)
	if err != nil {
		return nil, err
	}
	if server != "" && s.Server != name {
		return nil, fmt.Errorf("the registration is one of %s (server_name), not of %s", s.Server, name)
	}
	files, err := appservice.LoadFiles(a.files, a.names)
	if err != nil {
		return nil, err
	}
	if err := a.services().Add(ctx, s, replace, files, a.users); err != nil {
		return nil, err
	}
	return s, a.out.PublishAppservices()
}

// RemoveAppservice removes an application service that was added. Its token is refused by running workers in a few seconds. Its users,
// rooms and aliases stay.
func (a *Admin) RemoveAppservice(ctx context.Context, name string) error {
	if err := a.services().Remove(ctx, name); err != nil {
		return err
	}
	if err := a.out.PublishAppservices(); err != nil {
		return err
	}
	return appservice.ForgetStanding(ctx, a.shards, name)
}

// AppserviceStandings returns where the application services stand that have ever been served.
func (a *Admin) AppserviceStandings(ctx context.Context) (map[string]appservice.Standing, error) {
	return appservice.Standings(ctx, a.shards)
}

func (a *Admin) services() *appservice.Store { return appservice.NewStore(a.shards) }
