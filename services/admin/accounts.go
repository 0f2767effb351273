package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
	"hanse/pkg/userdb/db"
)

// NewUser is what CreateUser makes.
type NewUser struct {
	Name        string // localpart, or the full id
	Server      string // one of the cluster's names; empty: the first one
	Password    string
	Displayname string // empty: the localpart, as for accounts that people register themselves
	Admin       bool
}

// user returns the id that is meant by a localpart or a full id.
func (a *Admin) user(name, server string) (id.User, error) {
	if name == "" {
		return "", errors.New("the user name is empty")
	}
	if !strings.HasPrefix(name, "@") {
		server, err := a.server(server)
		if err != nil {
			return "", err
		}
		return id.ParseUser(string(id.NewUser(name, server)))
	}
	user, err := id.ParseUser(name)
	if err != nil {
		return "", err
	}
	if server != "" && server != string(user.Server()) {
		return "", fmt.Errorf("%s is not a user of %s", user, server)
	}
	_, err = a.server(string(user.Server()))
	return user, err
}

// CheckNewUser returns the id that CreateUser would create, or why it would refuse: another server's name, a localpart
// that new users may not have, or an id that is taken or that an application service has to itself.
func (a *Admin) CheckNewUser(ctx context.Context, name, server string) (id.User, error) {
	user, err := a.user(name, server)
	if err != nil {
		return "", err
	}
	if err := id.ParseStrictLocalpart(user.Localpart()); err != nil {
		return "", err
	}
	taken, err := a.users.AccountExists(ctx, user)
	if err == nil && taken {
		err = fmt.Errorf("%s is taken", user)
	}
	if err != nil {
		return user, err
	}
	services, err := a.Appservices(ctx)
	for _, s := range services {
		if s.OwnsUser(user) {
			return user, fmt.Errorf("%s is reserved by application service %q", user, s.ID)
		}
	}
	return user, err
}

// CreateUser creates an account and returns its id.
func (a *Admin) CreateUser(ctx context.Context, n NewUser) (id.User, error) {
	user, err := a.CheckNewUser(ctx, n.Name, n.Server)
	if err != nil {
		return "", err
	}
	hash, err := a.hash(ctx, n.Password)
	if err != nil {
		return "", err
	}
	if n.Displayname == "" {
		n.Displayname = user.Localpart()
	}
	created, err := a.users.CreateAccount(ctx, userdb.NewAccount{User: user, PasswordHash: hash, Admin: n.Admin,
		Displayname: n.Displayname, CreatedTS: userdb.Millis(time.Now())})
	if err == nil && !created {
		err = fmt.Errorf("%s is taken", user)
	}
	return user, err
}

func (a *Admin) hash(ctx context.Context, text string) (string, error) {
	if text == "" {
		return "", errors.New("the password is empty")
	}
	return a.hasher.Hash(ctx, text)
}

// SetPassword replaces a password; with logout, all devices of the user go too.
func (a *Admin) SetPassword(ctx context.Context, name, text string, logout bool) (id.User, error) {
	user, err := a.existing(ctx, name)
	if err != nil {
		return "", err
	}
	hash, err := a.hash(ctx, text)
	if err != nil {
		return "", err
	}
	if err := a.users.SetPassword(ctx, user, hash); err != nil {
		return "", fmt.Errorf("%s: %w", user, err)
	}
	if !logout {
		return user, nil
	}
	devices, err := a.users.Devices(ctx, user)
	if err != nil {
		return "", err
	}
	ids := make([]id.Device, len(devices))
	for i, d := range devices {
		ids[i] = id.Device(d.DeviceID)
	}
	_, err = a.users.DeleteDevices(ctx, user, ids) // a client worker does the tasks
	return user, err
}

// Deactivate closes an account for good; a client worker makes it leave its rooms, and with erase deletes its files.
func (a *Admin) Deactivate(ctx context.Context, name string, erase bool) (id.User, error) {
	user, err := a.existing(ctx, name)
	if err != nil {
		return "", err
	}
	_, err = a.users.Deactivate(ctx, user, erase)
	return user, err
}

// SetAdministrator makes a user an administrator, or takes that back.
func (a *Admin) SetAdministrator(ctx context.Context, name string, admin bool) (id.User, error) {
	user, err := a.existing(ctx, name)
	if err != nil {
		return "", err
	}
	return user, a.users.SetAdmin(ctx, user, admin)
}

// CheckUser returns the id that is meant by a localpart or a full id; that there is no such account is an error.
func (a *Admin) CheckUser(ctx context.Context, name string) (id.User, error) {
	return a.existing(ctx, name)
}

func (a *Admin) existing(ctx context.Context, name string) (id.User, error) {
	user, err := a.user(name, "")
	if err != nil {
		return "", err
	}
	exists, err := a.users.AccountExists(ctx, user)
	if err == nil && !exists {
		err = fmt.Errorf("there is no account %s", user)
	}
	return user, err
}

// Users lists up to limit accounts whose user id is greater than after and contains a text, by user id.
func (a *Admin) Users(ctx context.Context, after, containing string, limit int) ([]db.Account, error) {
	return a.users.ListAccounts(ctx, id.User(after), containing, limit)
}

// UserDetails is what an operator sees of an account.
type UserDetails struct {
	Account db.Account
	Devices []db.Device
	Rooms   map[string]int // rooms by the user's membership in them
}

// User returns what is known of one account.
func (a *Admin) User(ctx context.Context, name string) (*UserDetails, error) {
	user, err := a.existing(ctx, name)
	if err != nil {
		return nil, err
	}
	d := &UserDetails{Rooms: make(map[string]int)}
	if d.Account, err = a.users.Account(ctx, user); err != nil {
		return nil, err
	}
	if d.Devices, err = a.users.Devices(ctx, user); err != nil {
		return nil, err
	}
	memberships, err := a.users.Memberships(ctx, user)
	if err != nil {
		return nil, err
	}
	for _, m := range memberships {
		d.Rooms[m.Membership]++
	}
	return d, nil
}
