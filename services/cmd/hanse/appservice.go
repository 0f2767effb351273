package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"hanse/pkg/appservice"
	"hanse/services/admin"
)

type appserviceCmd struct {
	List   appserviceList   `cmd:"" help:"Show the application services: bridges and bots."`
	Show   appserviceShow   `cmd:"" help:"Show what one is registered with, without its tokens."`
	Add    appserviceAdd    `cmd:"" help:"Add one. Running workers know it in a few seconds."`
	Remove appserviceRemove `cmd:"" help:"Remove one that was added. Its users, rooms and aliases stay."`
}

type appserviceList struct{}

func (appserviceList) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		all, err := a.Appservices(ctx)
		if err != nil {
			return err
		}
		standings, err := a.AppserviceStandings(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tSERVER\tSENDER\tURL\tFROM\tLAST OK\tLAG\tFAILURES")
		for _, s := range all {
			st := standings[s.ID]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", s.ID, s.Server, s.Sender, orDash(s.URL), s.Origin, moment(st.LastOK), lag(st), st.Failures)
		}
		return w.Flush()
	})
}

type appserviceShow struct {
	ID string `arg:"" help:"Id of the application service."`
}

func (c *appserviceShow) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		s, err := a.Appservice(ctx, c.ID)
		if err != nil {
			return err
		}
		standings, err := a.AppserviceStandings(ctx)
		if err != nil {
			return err
		}
		printAppservice(os.Stdout, s)
		printStanding(os.Stdout, standings[c.ID])
		return nil
	})
}

// printStanding prints how the delivery to a service goes.
func printStanding(w io.Writer, s appservice.Standing) {
	for _, line := range [][2]string{
		{"last answer", moment(s.LastOK)}, {"lag", lag(s)}, {"read from the log", strconv.FormatBool(s.Behind)}, {"failures", strconv.Itoa(s.Failures)},
		{"failing since", moment(s.FailingSince)}, {"next attempt", moment(s.NextTry)}, {"last error", orDash(s.LastError)},
	} {
		fmt.Fprintf(w, "%-19s %s\n", line[0]+":", line[1])
	}
}

// moment prints a time, if there is one.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// lag is how long the oldest thing has waited that a service lacks.
func lag(s appservice.Standing) string {
	if s.WaitingSince.IsZero() {
		return "-"
	}
	return time.Since(s.WaitingSince).Round(time.Second).String()
}

func printAppservice(w io.Writer, s *appservice.Service) {
	for _, line := range [][2]string{
		{"id", s.ID}, {"server name", string(s.Server)}, {"sender", string(s.Sender)}, {"url", orDash(s.URL)}, {"registered in", s.Origin},
		{"rate limited", strconv.FormatBool(s.RateLimited)}, {"ephemeral events", strconv.FormatBool(s.ReceiveEphemeral)},
		{"to-device messages", strconv.FormatBool(s.ToDevice)}, {"encryption", strconv.FormatBool(s.Encryption)},
		{"protocols", orDash(strings.Join(s.Protocols, ", "))},
	} {
		fmt.Fprintf(w, "%-19s %s\n", line[0]+":", line[1])
	}
	for _, kind := range []struct {
		name string
		list []appservice.Namespace
	}{{"users", s.Users}, {"aliases", s.Aliases}, {"rooms", s.Rooms}} {
		for _, n := range kind.list {
			note := ""
			if n.Exclusive {
				note = " (exclusive)"
			}
			fmt.Fprintf(w, "%-19s %s%s\n", kind.name+":", n.Source, note)
		}
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type appserviceAdd struct {
	File    string `arg:"" help:"Registration, YAML; - reads it from standard input."`
	Server  string `help:"One of the cluster's names, to which it belongs; the first if neither this nor the registration (server_name) says which."`
	Replace bool   `help:"Replace the one with this id: with other tokens, say. What waits for it stays."`
}

func (c *appserviceAdd) Run(ctx context.Context, g *globals) error {
	in := os.Stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	registration, err := io.ReadAll(io.LimitReader(in, 2<<20)) // what is too large is refused
	if err != nil {
		return err
	}
	return g.admin(ctx, func(a *admin.Admin) error {
		s, err := a.AddAppservice(ctx, registration, c.Server, c.Replace)
		if err == nil {
			fmt.Println("added:", s.ID, "with the sender", s.Sender)
		}
		return err
	})
}

type appserviceRemove struct {
	ID string `arg:"" help:"Id of the application service."`
}

func (c *appserviceRemove) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		err := a.RemoveAppservice(ctx, c.ID)
		if err == nil {
			fmt.Println("removed:", c.ID)
		}
		return err
	})
}
