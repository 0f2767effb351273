package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"hanse/pkg/userdb/db"
	"hanse/services/admin"
)

type userCmd struct {
	Create     userCreate     `cmd:"" help:"Make an account."`
	List       userList       `cmd:"" help:"List accounts by user id."`
	Show       userShow       `cmd:"" help:"Show an account, its devices and how many rooms it is in."`
	Password   userPassword   `cmd:"" help:"Replace the password of an account."`
	Promote    userPromote    `cmd:"" help:"Make a user an administrator."`
	Demote     userDemote     `cmd:"" help:"Take an administrator's rights back."`
	Deactivate userDeactivate `cmd:"" help:"Close an account for good."`
}

type userCreate struct {
	Name          string `arg:"" help:"Localpart, or the full id."`
	Server        string `help:"Server name of the account, if the cluster has several." placeholder:"NAME"`
	Displayname   string `help:"Display name; the localpart if none is given."`
	Admin         bool   `help:"Make the user an administrator."`
	PasswordStdin bool   `help:"Read the password from the first line of standard input."`
}

func (c *userCreate) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		user, err := a.CheckNewUser(ctx, c.Name, c.Server)
		if err != nil {
			return err
		}
		password, err := readPassword(c.PasswordStdin, string(user))
		if err != nil {
			return err
		}
		user, err = a.CreateUser(ctx, admin.NewUser{Name: string(user), Password: password, Displayname: c.Displayname, Admin: c.Admin})
		if err == nil {
			fmt.Println(user)
		}
		return err
	})
}

type userList struct {
	Containing string `arg:"" optional:"" help:"Only ids that contain this text."`
	After      string `help:"Begin after this user id, the last one of the page before." placeholder:"ID"`
	Limit      int    `help:"How many to list at most." default:"100"`
}

func (c *userList) Run(ctx context.Context, g *globals) error {
	if c.Limit < 1 {
		return fmt.Errorf("--limit %d: must be positive", c.Limit)
	}
	return g.admin(ctx, func(a *admin.Admin) error {
		accounts, err := a.Users(ctx, c.After, c.Containing, c.Limit)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "USER\tDISPLAY NAME\tCREATED\tNOTES")
		for _, acc := range accounts {
			fmt.Fprintf(w, "%s\t%q\t%s\t%s\n", acc.UserID, text(acc.Displayname), date(acc.CreatedTs), notes(acc))
		}
		if err := w.Flush(); err != nil || len(accounts) < c.Limit {
			return err
		}
		fmt.Fprintf(os.Stderr, "There may be more: --after %s\n", accounts[len(accounts)-1].UserID)
		return nil
	})
}

// notes says what is special about an account.
func notes(a db.Account) string {
	var notes []string
	for note, is := range map[string]bool{
		"administrator": a.Admin, "guest": a.Guest, "deactivated": a.Deactivated, "erased": a.Erased,
		"of application service " + a.AppserviceID: a.AppserviceID != "",
	} {
		if is {
			notes = append(notes, note)
		}
	}
	slices.Sort(notes)
	return strings.Join(notes, ", ")
}

type userShow struct {
	User string `arg:"" help:"Localpart, or the full id."`
}

func (c *userShow) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		d, err := a.User(ctx, c.User)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintf(w, "user\t%s\ndisplay name\t%q\ncreated\t%s\nnotes\t%s\n",
			d.Account.UserID, text(d.Account.Displayname), date(d.Account.CreatedTs), notes(d.Account))
		for _, membership := range slices.Sorted(maps.Keys(d.Rooms)) {
			fmt.Fprintf(w, "rooms (%s)\t%d\n", membership, d.Rooms[membership])
		}
		fmt.Fprintf(w, "devices\t%d\n", len(d.Devices))
		for _, dev := range d.Devices {
			fmt.Fprintf(w, "  %q\t%q\tseen %s from %s\n", dev.DeviceID, text(dev.DisplayName), seen(dev.LastSeenTs), text(dev.LastSeenIp))
		}
		return w.Flush()
	})
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func date(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

func seen(ms *int64) string {
	if ms == nil {
		return "never"
	}
	return date(*ms)
}

type userPassword struct {
	User          string `arg:"" help:"Localpart, or the full id."`
	KeepDevices   bool   `help:"Leave the user's devices logged in."`
	PasswordStdin bool   `help:"Read the password from the first line of standard input."`
}

func (c *userPassword) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		user, err := a.CheckUser(ctx, c.User)
		if err != nil {
			return err
		}
		password, err := readPassword(c.PasswordStdin, string(user))
		if err != nil {
			return err
		}
		_, err = a.SetPassword(ctx, string(user), password, !c.KeepDevices)
		return err
	})
}

type userPromote struct {
	User string `arg:"" help:"Localpart, or the full id."`
}

func (c *userPromote) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error { return setAdministrator(ctx, a, c.User, true) })
}

type userDemote struct {
	User string `arg:"" help:"Localpart, or the full id."`
}

func (c *userDemote) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error { return setAdministrator(ctx, a, c.User, false) })
}

func setAdministrator(ctx context.Context, a *admin.Admin, name string, is bool) error {
	user, err := a.SetAdministrator(ctx, name, is)
	if err != nil {
		return err
	}
	if is {
		fmt.Println(user, "is an administrator")
	} else {
		fmt.Println(user, "is no administrator")
	}
	return nil
}

type userDeactivate struct {
	User  string `arg:"" help:"Localpart, or the full id."`
	Erase bool   `help:"Erase the profile too."`
}

func (c *userDeactivate) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		_, err := a.Deactivate(ctx, c.User, c.Erase)
		return err
	})
}
