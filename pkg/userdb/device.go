package userdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/userdb/db"
)

// TokenHash is the SHA-256 of an access or refresh token, which is all that is stored of it.
type TokenHash = [32]byte

// Login is a session to be: a device and its tokens.
type Login struct {
	User   id.User
	Device id.Device
	// DisplayName is given to the device if it is new.
	DisplayName string
	Access      TokenHash
	// AccessExpires and RefreshExpires are in milliseconds since 1970; 0: never.
	AccessExpires int64
	// Refresh is nil for sessions that are not refreshed.
	Refresh        *TokenHash
	RefreshExpires int64
}

// AddLogin creates the device, if it does not exist, and its tokens; tokens that the device had before are dropped
// (client-server API, "Relationship between access tokens and devices"). It reports whether the device is new.
func (d *DB) AddLogin(ctx context.Context, l Login) (created bool, err error) {
	_, err = d.Change(ctx, l.User, func(tx *Tx) error {
		p := db.UpsertDeviceParams{Part: tx.Part, UserID: string(l.User), DeviceID: string(l.Device), CreatedTs: Millis(time.Now())}
		if l.DisplayName != "" {
			p.DisplayName = &l.DisplayName
		}
		if created, err = tx.UpsertDevice(ctx, p); err != nil {
			return err
		}
		if !created {
			if err := tx.dropTokens(ctx, []string{string(l.Device)}); err != nil {
				return err
			}
		}
		return tx.addTokens(ctx, l)
	})
	if err != nil {
		return false, fmt.Errorf("log in: %w", err)
	}
	if !created {
		d.revoked(l.User, l.Device)
	}
	return created, nil
}

func (tx *Tx) addTokens(ctx context.Context, l Login) error {
	now := Millis(time.Now())
	access := db.AddAccessTokenParams{
		Part: tx.Part, Hash: l.Access[:], UserID: string(l.User), DeviceID: string(l.Device),
		ExpiresTs: nullable(l.AccessExpires), CreatedTs: now,
	}
	if l.Refresh != nil {
		access.RefreshHash = l.Refresh[:]
	}
	err := tx.AddAccessToken(ctx, access)
	if err != nil || l.Refresh == nil {
		return err
	}
	return tx.AddRefreshToken(ctx, db.AddRefreshTokenParams{
		Part: tx.Part, Hash: l.Refresh[:], UserID: string(l.User), DeviceID: string(l.Device),
		ExpiresTs: nullable(l.RefreshExpires), CreatedTs: now,
	})
}

func nullable(v int64) *int64 {
	if v == 0 {
		return nil
	}
	return &v
}

// PutDevice creates a device without tokens, for application services (application service API, "Server admin style
// permissions"), or renames it.
func (d *DB) PutDevice(ctx context.Context, user id.User, device id.Device, displayName *string) (created bool, err error) {
	_, err = d.Change(ctx, user, func(tx *Tx) error {
		created, err = tx.UpsertDevice(ctx, db.UpsertDeviceParams{
			Part: tx.Part, UserID: string(user), DeviceID: string(device), DisplayName: displayName, CreatedTs: Millis(time.Now()),
		})
		if err != nil || created || displayName == nil {
			return err
		}
		_, err = tx.RenameDevice(ctx, db.RenameDeviceParams{Part: tx.Part, UserID: string(user), DeviceID: string(device), DisplayName: displayName})
		return err
	})
	return created, err
}

// Devices returns the devices of a user, by id.
func (d *DB) Devices(ctx context.Context, user id.User) ([]db.Device, error) {
	q, part := d.At(user)
	return q.Devices(ctx, part, string(user))
}

// Device returns a device, or ErrNotFound.
func (d *DB) Device(ctx context.Context, user id.User, device id.Device) (db.Device, error) {
	q, part := d.At(user)
	dev, err := q.Device(ctx, part, string(user), string(device))
	return dev, notFound(err)
}

// DeleteDevices deletes devices with everything that belongs to them, and their tokens. With a task, the change of the
// device list is noted in the same transaction; stream is its position (0 if no such device existed).
func (d *DB) DeleteDevices(ctx context.Context, user id.User, devices []id.Device) (tasks []Task, err error) {
	ids := make([]string, len(devices))
	for i, dev := range devices {
		ids[i] = string(dev)
	}
	slices.Sort(ids)
	var gone []string
	_, err = d.Change(ctx, user, func(tx *Tx) error {
		if gone, err = tx.dropDevices(ctx, ids); err != nil {
			return err
		}
		tasks = tasks[:0]
		for _, dev := range gone {
			t, err := tx.DevicesChanged(ctx, id.Device(dev))
			if err != nil {
				return err
			}
			tasks = append(tasks, t)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("delete devices: %w", err)
	}
	for _, dev := range gone {
		d.revoked(user, id.Device(dev))
	}
	return tasks, nil
}

// dropDevices deletes devices and what belongs to them; it returns those that existed.
func (tx *Tx) dropDevices(ctx context.Context, ids []string) ([]string, error) {
	user := string(tx.User)
	gone, err := tx.Queries.DeleteDevices(ctx, tx.Part, user, ids)
	if err != nil {
		return nil, err
	}
	if _, err := tx.DeleteDeviceKeys(ctx, tx.Part, user, ids); err != nil {
		return nil, err
	}
	for _, drop := range []func(context.Context, int32, string, []string) error{
		tx.DeleteOneTimeKeys, tx.DeleteFallbackKeys, tx.DeleteToDevice, tx.DeleteDeviceSignatures, tx.DeleteDevicePushers,
		tx.DeleteSlidingConnections, tx.DeleteDehydratedDevice,
	} {
		if err := drop(ctx, tx.Part, user, ids); err != nil {
			return nil, err
		}
	}
	if err := tx.dropDeviceData(ctx, ids); err != nil {
		return nil, err
	}
	return gone, tx.dropTokens(ctx, ids)
}

// dropDeviceData deletes the account data that say whether clients on devices notify (MSC3890).
func (tx *Tx) dropDeviceData(ctx context.Context, devices []string) error {
	var types []string
	for _, dev := range devices {
		types = append(types, "m.local_notification_settings."+dev, "org.matrix.msc3890.local_notification_settings."+dev)
	}
	return tx.DeleteGlobalAccountData(ctx, db.DeleteGlobalAccountDataParams{Part: tx.Part, UserID: string(tx.User), Types: types, Seq: tx.Seq})
}

func (tx *Tx) dropTokens(ctx context.Context, devices []string) error {
	if err := tx.DeleteDeviceAccessTokens(ctx, tx.Part, string(tx.User), devices); err != nil {
		return err
	}
	return tx.DeleteDeviceRefreshTokens(ctx, tx.Part, string(tx.User), devices)
}

// Owner is whom an access token belongs to.
type Owner struct {
	User        id.User
	Device      id.Device
	ExpiresTS   int64 // milliseconds since 1970; 0: never
	Guest       bool
	Admin       bool
	Deactivated bool
	Appservice  string
}

// ErrExpired is returned for a refresh token that is too old.
var ErrExpired = errors.New("expired")

// TokenOwner returns whom the access token with this hash in this partition belongs to, or ErrNotFound. Expired tokens
// are returned too: the answer to them differs.
func (d *DB) TokenOwner(ctx context.Context, part uint32, hash TokenHash) (Owner, error) {
	if part >= d.shards.P() {
		return Owner{}, ErrNotFound
	}
	q := db.New(d.shards.For(part))
	r, err := q.TokenOwner(ctx, int32(part), hash[:])
	if err != nil {
		return Owner{}, notFound(err)
	}
	if r.Supersedes { // the first use of what a refresh gave out: what it replaced is void now
		if err := q.DeleteSuperseded(ctx, int32(part), r.UserID, r.RefreshHash); err != nil {
			return Owner{}, fmt.Errorf("drop superseded tokens: %w", err)
		}
		d.revoked(id.User(r.UserID), id.Device(r.DeviceID))
	}
	o := Owner{
		User: id.User(r.UserID), Device: id.Device(r.DeviceID), Guest: r.Guest, Admin: r.Admin, Deactivated: r.Deactivated,
		Appservice: r.AppserviceID,
	}
	if r.ExpiresTs != nil {
		o.ExpiresTS = *r.ExpiresTs
	}
	return o, nil
}

// Refresh exchanges a refresh token for new tokens (l.Access and l.Refresh; user and device are those of the old one).
// The old one stays valid until one of the new ones is used (client-server API, "Refreshing access tokens"). It returns ErrNotFound for a token
// that is unknown or was superseded, ErrExpired for one that is too old.
func (d *DB) Refresh(ctx context.Context, part uint32, old TokenHash, l Login) (Login, error) {
	if part >= d.shards.P() {
		return l, ErrNotFound
	}
	err := pg.InTx(ctx, d.shards.For(part), func(ptx pgx.Tx) error {
		tx := &Tx{Tx: ptx, Queries: db.New(ptx), Part: int32(part)}
		row, err := tx.LockRefreshToken(ctx, tx.Part, old[:])
		if err != nil {
			return notFound(err)
		}
		if row.ExpiresTs != nil && *row.ExpiresTs <= Millis(time.Now()) {
			return ErrExpired
		}
		l.User, l.Device = id.User(row.UserID), id.Device(row.DeviceID)
		tx.User = l.User
		if row.NextHash != nil { // a retry: the answer was lost, what it held was never used
			if err := tx.DeleteRefreshToken(ctx, tx.Part, row.UserID, row.NextHash); err != nil {
				return err
			}
		}
		if err := tx.DeleteSuperseded(ctx, tx.Part, row.UserID, old[:]); err != nil {
			return err
		}
		if err := tx.SetRefreshTokenNext(ctx, tx.Part, old[:], l.Refresh[:]); err != nil {
			return err
		}
		return tx.addTokens(ctx, l)
	})
	if err == nil {
		d.revoked(l.User, l.Device)
	}
	return l, err
}

// Seen is when and from where a device was last used.
type Seen struct {
	User   id.User
	Device id.Device
	TS     int64
	IP     string
	Agent  string
}

// RecordSeen stores when devices were last used, with one statement for each shard.
func (d *DB) RecordSeen(ctx context.Context, seen []Seen) error {
	byShard := make(map[*db.Queries]*db.SeenDevicesParams)
	queries := make(map[any]*db.Queries)
	for _, s := range seen {
		part := partition.Of(string(s.User))
		pool := d.shards.For(part)
		q := queries[pool]
		if q == nil {
			q = db.New(pool)
			queries[pool] = q
			byShard[q] = new(db.SeenDevicesParams)
		}
		p := byShard[q]
		p.Parts = append(p.Parts, int32(part))
		p.UserIds = append(p.UserIds, string(s.User))
		p.DeviceIds = append(p.DeviceIds, string(s.Device))
		p.Tss = append(p.Tss, s.TS)
		p.Ips = append(p.Ips, s.IP)
		p.Agents = append(p.Agents, s.Agent)
	}
	for q, p := range byShard {
		if err := q.SeenDevices(ctx, *p); err != nil {
			return fmt.Errorf("record devices seen: %w", err)
		}
	}
	return nil
}
