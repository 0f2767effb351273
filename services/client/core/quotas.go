package core

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
)

// Quotas bound what a user may store. Requests that come at the same time may exceed them by what each of them brings.
type Quotas struct {
	AccountDataItem  int64  `yaml:"account_data_item" doc:"Bytes of one entry of account data: global, of a room, its tags, push rules."`
	AccountDataItems int64  `yaml:"account_data_items" doc:"Entries of account data of one user."`
	AccountData      int64  `yaml:"account_data" doc:"Bytes of all account data of one user."`
	Filters          int64  `yaml:"filters" doc:"Stored filters of one user."`
	Devices          int64  `yaml:"devices" doc:"Devices of one user. Beyond it a new device cannot log in before an old one is removed."`
	Pushers          int64  `yaml:"pushers" doc:"Pushers of one user."`
	PusherData       int64  `yaml:"pusher_data" doc:"Bytes of the data of one pusher."`
	Backups          int64  `yaml:"backups" doc:"Versions of the key backup of one user."`
	BackupSessions   int64  `yaml:"backup_sessions" doc:"Sessions in one version of the key backup."`
	BackupSession    int64  `yaml:"backup_session" doc:"Bytes of the data of one session in the key backup."`
	InfoURI          string `yaml:"info_uri" doc:"Where users read about these limits. Empty: /.well-known/matrix/support."`
}

// DefaultQuotas are what clients do not run into.
func DefaultQuotas() Quotas {
	return Quotas{
		AccountDataItem: 512 << 10, AccountDataItems: 20_000, AccountData: 16 << 20, Filters: 200, Devices: 2000,
		Pushers: 100, PusherData: 16 << 10, Backups: 50, BackupSessions: 1_000_000, BackupSession: 64 << 10,
	}
}

// Validate reports quotas that nobody could live with.
func (q *Quotas) Validate() error {
	if min(q.AccountDataItems, q.Filters, q.Devices, q.Pushers, q.Backups, q.BackupSessions) < 1 {
		return errors.New("numbers of things must be positive")
	}
	if min(q.AccountDataItem, q.PusherData, q.BackupSession) < 1<<10 || q.AccountData < q.AccountDataItem {
		return errors.New("bytes of one thing: at least 1 KiB, and account_data at least as much as one entry may have")
	}
	return nil
}

// Exceeded is the answer to who would exceed a quota (client-server API, "Common error codes", M_USER_LIMIT_EXCEEDED).
func (c *Core) Exceeded(what string, limit int64) error {
	return merr.New(http.StatusForbidden, "M_USER_LIMIT_EXCEEDED", fmt.Sprintf("An account may have %d %s", limit, what)).With("info_uri", c.Quotas.InfoURI)
}

// MayStore checks that a user may have one more thing of a kind.
func (c *Core) MayStore(ctx context.Context, user id.User, kind userdb.Stored, limit int64) error {
	have, err := c.Users.Usage(ctx, user, kind)
	if err != nil {
		return err
	}
	if have.Items >= limit {
		return c.Exceeded(string(kind), limit)
	}
	return nil
}

// MayStoreData checks that a user may have an entry of account data with so many bytes.
func (c *Core) MayStoreData(ctx context.Context, user id.User, room id.Room, typ string, size int) error {
	if err := c.CheckData(size); err != nil {
		return err
	}
	have, err := c.Users.AccountDataUsage(ctx, user, room, typ)
	switch {
	case err != nil:
		return err
	case have.Items >= c.Quotas.AccountDataItems:
		return c.Exceeded("entries of account data", c.Quotas.AccountDataItems)
	case have.Bytes+int64(size) > c.Quotas.AccountData:
		return c.Exceeded("bytes of account data", c.Quotas.AccountData)
	}
	return nil
}

// CheckData checks the size of one entry of account data.
func (c *Core) CheckData(size int) error {
	if int64(size) > c.Quotas.AccountDataItem {
		return merr.TooLarge(fmt.Sprintf("An entry of account data may have %d bytes", c.Quotas.AccountDataItem))
	}
	return nil
}
