package account

import (
	"context"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/pkg/userdb/db"
	"hanse/services/client/core"
)

func (c *Account) deviceRoutes(rt *core.Routes) {
	rt.Guest.Handle("GET /devices", c.listDevices)
	rt.Guest.Handle("GET /devices/{deviceId}", c.getDevice)
	rt.Guest.Handle("PUT /devices/{deviceId}", c.putDevice)
	rt.Auth.Handle("DELETE /devices/{deviceId}", c.deleteDevice)
	rt.Auth.Handle("POST /delete_devices", c.deleteManyDevices)
}

// deviceAnswer has null for what is not known, as Synapse does: there are clients that do not do without.
type deviceAnswer struct {
	DeviceID    string  `json:"device_id"`
	DisplayName *string `json:"display_name"`
	LastSeenIP  *string `json:"last_seen_ip"`
	LastSeenTS  *int64  `json:"last_seen_ts"`
}

func showDevice(d db.Device) deviceAnswer {
	return deviceAnswer{d.DeviceID, d.DisplayName, d.LastSeenIp, d.LastSeenTs}
}

func (c *Account) listDevices(w http.ResponseWriter, r *http.Request) error {
	rows, err := c.Users.Devices(r.Context(), core.Me(r).User)
	if err != nil {
		return err
	}
	devices := make([]deviceAnswer, len(rows))
	for i, d := range rows {
		devices[i] = showDevice(d)
	}
	return httpx.OK(w, map[string]any{"devices": devices})
}

func (c *Account) getDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := c.Users.Device(r.Context(), core.Me(r).User, id.Device(core.Param(r, "deviceId")))
	if errors.Is(err, userdb.ErrNotFound) {
		return merr.NotFound("No device found")
	}
	if err != nil {
		return err
	}
	return httpx.OK(w, showDevice(d))
}

// putDevice answers PUT /devices/{deviceId}: it renames a device. Application services create devices with it
// (application service API, "Device management").
func (c *Account) putDevice(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		DisplayName *string `json:"display_name"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	i, device := core.Me(r), core.Param(r, "deviceId")
	name := ""
	if q.DisplayName != nil {
		name = *q.DisplayName
	}
	if err := CheckDevice(device, name); err != nil {
		return err
	}
	ctx := r.Context()
	if i.Appservice != nil {
		created, err := c.Users.PutDevice(ctx, i.User, id.Device(device), q.DisplayName)
		if err != nil {
			return err
		}
		if created {
			return httpx.JSON(w, http.StatusCreated, struct{}{})
		}
	} else if err := c.renameDevice(ctx, i.User, id.Device(device), q.DisplayName); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Account) renameDevice(ctx context.Context, user id.User, device id.Device, name *string) error {
	var tasks []userdb.Task
	_, err := c.Users.Change(ctx, user, func(tx *userdb.Tx) error {
		tasks = nil
		old, err := tx.Device(ctx, tx.Part, string(user), string(device))
		if err != nil {
			return err
		}
		if name == nil || (old.DisplayName != nil && *old.DisplayName == *name) {
			return nil
		}
		if _, err := tx.RenameDevice(ctx, db.RenameDeviceParams{Part: tx.Part, UserID: string(user), DeviceID: string(device), DisplayName: name}); err != nil {
			return err
		}
		// The name travels with the keys of the device.
		t, err := tx.DevicesChanged(ctx, device)
		tasks = append(tasks, t)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, userdb.ErrNotFound) { // inside the transaction, or outside of it
		return merr.NotFound("No device found")
	}
	if err != nil {
		return err
	}
	c.Tasks.StartAndWait(ctx, tasks...)
	return nil
}

func (c *Account) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	s, err := c.uia.Begin(r, core.Me(r).User, &struct{}{})
	if err != nil {
		return err
	}
	if err := c.uia.Confirm(r, s); err != nil {
		return err
	}
	if err := c.DeleteDevices(r.Context(), core.Me(r).User, []id.Device{id.Device(core.Param(r, "deviceId"))}); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Account) deleteManyDevices(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Devices *[]id.Device `json:"devices"`
	}
	s, err := c.uia.Begin(r, core.Me(r).User, &q)
	if err != nil {
		return err
	}
	if q.Devices == nil {
		return merr.MissingParam("devices")
	}
	if err := c.uia.Confirm(r, s); err != nil {
		return err
	}
	if err := c.DeleteDevices(r.Context(), core.Me(r).User, *q.Devices); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// DeleteDevices logs devices out and deletes all that belongs to them.
func (c *Account) DeleteDevices(ctx context.Context, user id.User, devices []id.Device) error {
	if len(devices) == 0 {
		return nil
	}
	tasks, err := c.Users.DeleteDevices(ctx, user, devices)
	if err != nil {
		return err
	}
	for _, d := range devices {
		c.Sessions.Forget(user, d)
	}
	c.Tasks.StartAndWait(ctx, tasks...)
	return nil
}
