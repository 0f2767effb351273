package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"hanse/pkg/matrix/signing"
	"hanse/services/admin"
)

type keysCmd struct {
	List   keysList   `cmd:"" help:"Show the signing keys of all names, with their public halves."`
	Rotate keysRotate `cmd:"" help:"Make a new signing key. Running workers take it up within half a minute; the old one ends after five."`
	Import keysImport `cmd:"" help:"Take over the signing keys of the server that had the name before."`
}

type keysList struct{}

func (keysList) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		all, err := a.Keys(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "SERVER\tKEY\tPUBLIC\tSTATE")
		for _, s := range all {
			for _, k := range s.All {
				end, state := time.UnixMilli(k.ExpiredTS), "valid"
				switch {
				case k.KeyID == s.Current:
					state = "signs"
				case k.ExpiredTS != 0 && end.After(time.Now()):
					state = "ends " + end.UTC().Format(time.RFC3339)
				case k.ExpiredTS != 0:
					state = "ended " + end.UTC().Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Server, k.KeyID, signing.Encode(k.Public), state)
			}
		}
		return w.Flush()
	})
}

type keysRotate struct {
	Server string `arg:"" optional:"" help:"One of the cluster's names; the first if none is given."`
}

func (c *keysRotate) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		server, key, err := a.RotateKey(ctx, c.Server)
		if err == nil {
			fmt.Println(server, "signs with", key)
		}
		return err
	})
}

type keysImport struct {
	File   string `arg:"" type:"existingfile" help:"A key a line: algorithm, version and seed, as in Synapse's signing.key. The first one signs."`
	Server string `arg:"" optional:"" help:"One of the cluster's names; the first if none is given."`
}

func (c *keysImport) Run(ctx context.Context, g *globals) error {
	raw, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	return g.admin(ctx, func(a *admin.Admin) error {
		server, keys, err := a.ImportKeys(ctx, c.Server, string(raw))
		if err == nil {
			fmt.Println(server, "signs with", keys[0])
		}
		return err
	})
}
