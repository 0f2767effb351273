package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"hanse/services/app"
)

type userCmd struct {
	Create     userCreate     `cmd:"" help:"Make an account."`
	Password   userPassword   `cmd:"" help:"Replace the password of an account."`
	Deactivate userDeactivate `cmd:"" help:"Close an account for good."`
}

type userCreate struct {
	Name          string `arg:"" help:"Localpart, or the full id."`
	Server        string `help:"Server name of the account, if the cluster has several." placeholder:"NAME"`
	Displayname   string `help:"Display name."`
	Admin         bool   `help:"Make an administrator."`
	PasswordStdin bool   `help:"Read the password from the first line of standard input."`
}

func (c *userCreate) Run(ctx context.Context, g *globals) error {
	password, err := readPassword(c.PasswordStdin)
	if err != nil {
		return err
	}
	return g.admin(ctx, func(a *app.Admin) error {
		user, err := a.CreateUser(ctx, app.NewUser{Name: c.Name, Server: c.Server, Password: password, Displayname: c.Displayname, Admin: c.Admin})
		if err == nil {
			fmt.Println(user)
		}
		return err
	})
}

type userPassword struct {
	User          string `arg:"" help:"Localpart, or the full id."`
	KeepDevices   bool   `help:"Leave the user's devices logged in."`
	PasswordStdin bool   `help:"Read the password from the first line of standard input."`
}

func (c *userPassword) Run(ctx context.Context, g *globals) error {
	password, err := readPassword(c.PasswordStdin)
	if err != nil {
		return err
	}
	return g.admin(ctx, func(a *app.Admin) error {
		_, err := a.SetPassword(ctx, c.User, password, !c.KeepDevices)
		return err
	})
}

type userDeactivate struct {
	User  string `arg:"" help:"Localpart, or the full id."`
	Erase bool   `help:"Erase the profile too."`
}

func (c *userDeactivate) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *app.Admin) error {
		_, err := a.Deactivate(ctx, c.User, c.Erase)
		return err
	})
}

// readPassword asks at the terminal, twice and unseen, or takes a line of standard input.
func readPassword(stdin bool) (string, error) {
	in := bufio.NewReader(os.Stdin)
	if stdin {
		return readLine(in)
	}
	fd := int(os.Stdin.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", errors.New("standard input is not a terminal: use --password-stdin")
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return "", err
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }()
	var lines [2]string
	for i, prompt := range []string{"Password: ", "Again: "} {
		fmt.Fprint(os.Stderr, prompt)
		if lines[i], err = readLine(in); err != nil {
			return "", err
		}
		fmt.Fprintln(os.Stderr)
	}
	if lines[0] != lines[1] {
		return "", errors.New("the two passwords differ")
	}
	return lines[0], nil
}

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
