package userdb

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

// ErrDeviceInUse is returned for a dehydrated device with the id of a device that somebody is logged in with.
var ErrDeviceInUse = errors.New("the device id is in use")

// Dehydrated is a dehydrated device (MSC3814). Data is for clients only.
type Dehydrated struct {
	Device id.Device
	Data   json.RawMessage
}

// Dehydrated returns the user's dehydrated device, or ErrNotFound.
func (d *DB) Dehydrated(ctx context.Context, user id.User) (Dehydrated, error) {
	q, part := d.At(user)
	row, err := q.DehydratedDevice(ctx, part, string(user))
	return Dehydrated{id.Device(row.DeviceID), row.Data}, notFound(err)
}

// PutDehydrated makes a device with its keys the user's dehydrated device. One that the user had before goes, with its keys and
// messages, in the same transaction. It returns ErrDeviceInUse, or the tasks that tell others of the changes.
func (d *DB) PutDehydrated(ctx context.Context, data json.RawMessage, name *string, keys KeyUpload) (tasks []Task, err error) {
	_, err = d.Change(ctx, keys.User, func(tx *Tx) error {
		tasks = tasks[:0]
		user := string(keys.User)
		old, err := tx.DehydratedDevice(ctx, tx.Part, user)
		if err = notFound(err); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil {
			if _, err := tx.dropDevices(ctx, []string{old.DeviceID}); err != nil {
				return err
			}
			if id.Device(old.DeviceID) != keys.Device {
				task, err := tx.DevicesChanged(ctx, id.Device(old.DeviceID))
				if err != nil {
					return err
				}
				tasks = append(tasks, task)
			}
		}
		created, err := tx.UpsertDevice(ctx, db.UpsertDeviceParams{
			Part: tx.Part, UserID: user, DeviceID: string(keys.Device), DisplayName: name, CreatedTs: Millis(time.Now()),
		})
		if err != nil {
			return err
		}
		if !created {
			return ErrDeviceInUse
		}
		task, err := tx.putKeys(ctx, keys)
		if err != nil {
			return err
		}
		if task != nil {
			tasks = append(tasks, *task)
		}
		return tx.PutDehydratedDevice(ctx, db.PutDehydratedDeviceParams{Part: tx.Part, UserID: user, DeviceID: string(keys.Device), Data: data})
	})
	return tasks, err
}
