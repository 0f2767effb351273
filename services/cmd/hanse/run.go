package main

import (
	"context"
	"os"

	"hanse/services/app"
)

type runCmd struct {
	Role []string `help:"Roles of this process, separated by commas; all of them if none is given." placeholder:"ROLE"`
}

func (c *runCmd) Run(ctx context.Context, g *globals) error {
	cfg, report, err := g.load()
	if err != nil {
		return err
	}
	log := app.NewLog(cfg.Log, os.Stderr)
	for _, w := range report.Warnings {
		log.Warn("configuration", "warning", w)
	}
	return app.Run(ctx, cfg, c.Role, version, log)
}
