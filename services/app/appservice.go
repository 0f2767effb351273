package app

import (
	"context"

	"hanse/pkg/asclient"
	"hanse/services/appservice"
)

func buildAppservice(_ context.Context, b *builder) (Role, error) {
	roots, err := rootCAs(b.cfg.Federation.CAFiles)
	if err != nil {
		return nil, err
	}
	return appservice.New(b.cfg.Appservice, appservice.Deps{
		Shards: b.node.PG, Rooms: b.rooms, Users: b.users, Bus: b.node.Bus, Members: b.node.Members, Services: b.apps, Aliases: b.directory.AliasesOf,
		Names: b.node.Servers.Names(), Client: asclient.New(asclient.Config{RootCAs: roots}), Log: b.node.Log, Registerer: b.node.Metrics,
	})
}
