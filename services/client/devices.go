package client

import (
	"context"
	"errors"
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/pkg/userdb/db"
)

func (c *Client) deviceRoutes(rt *routes) {
	rt.guest.Handle("GET /devices", c.listDevices)
	rt.guest.Handle("GET /devices/{deviceId}", c.getDevice)
	rt.guest.Handle("PUT /devices/{deviceId}", c.putDevice)
	rt.auth.Handle("DELETE /devices/{deviceId}", c.deleteDevice)
	rt.auth.Handle("POST /delete_devices", c.deleteManyDevices)
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

func (c *Client) listDevices(w http.ResponseWriter, r *http.Request) error {
	rows, err := c.users.Devices(r.Context(), me(r).User)
	if err != nil {
		return err
	}
	devices := make([]deviceAnswer, len(rows))
	for i, d := range rows {
		devices[i] = showDevice(d)
	}
	return httpx.OK(w, map[string]any{"devices": devices})
}

func (c *Client) getDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := c.users.Device(r.Context(), me(r).User, id.Device(param(r, "deviceId")))
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
func (c *Client) putDevice(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		DisplayName *string `json:"display_name"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	i, device := me(r), param(r, "deviceId")
	name := ""
	if q.DisplayName != nil {
		name = *q.DisplayName
	}
	if err := checkDevice(device, name); err != nil {
		return err
	}
	ctx := r.Context()
	if i.Appservice != nil {
		created, err := c.users.PutDevice(ctx, i.User, id.Device(device), q.DisplayName)
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

func (c *Client) renameDevice(ctx context.Context, user id.User, device id.Device, name *string) error {
	var tasks []userdb.Task
	_, err := c.users.Change(ctx, user, func(tx *userdb.Tx) error {
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
	if isNoRows(err) {
		return merr.NotFound("No device found")
	}
	if err != nil {
		return err
	}
	c.startAndWait(ctx, tasks...)
	return nil
}

func (c *Client) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	s, err := c.beginUIA(r, me(r).User, &struct{}{})
	if err != nil {
		return err
	}
	if err := c.confirm(r, s); err != nil {
		return err
	}
	if err := c.deleteDevices(r.Context(), me(r).User, []id.Device{id.Device(param(r, "deviceId"))}); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (c *Client) deleteManyDevices(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Devices *[]id.Device `json:"devices"`
	}
	s, err := c.beginUIA(r, me(r).User, &q)
	if err != nil {
		return err
	}
	if q.Devices == nil {
		return merr.MissingParam("devices")
	}
	if err := c.confirm(r, s); err != nil {
		return err
	}
	if err := c.deleteDevices(r.Context(), me(r).User, *q.Devices); err != nil {
		return err
	}
	return httpx.Empty(w)
}

// deleteDevices logs devices out and deletes all that belongs to them.
func (c *Client) deleteDevices(ctx context.Context, user id.User, devices []id.Device) error {
	if len(devices) == 0 {
		return nil
	}
	tasks, err := c.users.DeleteDevices(ctx, user, devices)
	if err != nil {
		return err
	}
	for _, d := range devices {
		c.sessions.Forget(user, d)
	}
	c.startAndWait(ctx, tasks...)
	return nil
}
