package main

import (
	"context"
	"fmt"

	"hanse/services/admin"
)

type secretCmd struct {
	Renew secretRenew `cmd:"" help:"Make workers that start from now on believe nothing of what is in Redis: after a restore, before the first one starts, or when the secret has leaked."`
}

type secretRenew struct{}

func (secretRenew) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		err := a.RenewSecret(ctx)
		if err == nil {
			fmt.Println("What is in Redis counts no more. Restart room and client workers that run.")
		}
		return err
	})
}
