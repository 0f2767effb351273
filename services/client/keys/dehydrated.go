package keys

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/account"
	"hanse/services/client/core"
)

const (
	maxDehydrated       = 256 << 10 // bytes of device_data
	dehydratedMessages  = 100       // in one answer
	dehydratedBytes     = 1 << 20   // of their content, in one answer
	noDehydrated        = "No dehydrated device available"
	dehydrationUnstable = "/org.matrix.msc3814.v1"
)

// dehydratedRoutes are the endpoints of MSC3814, by the path that clients use today.
func (c *Keys) dehydratedRoutes(rt *core.Routes) {
	g := rt.Unstable(dehydrationUnstable)
	g.Handle("PUT /dehydrated_device", c.putDehydrated, httpx.MaxBody(core.LargeBody))
	g.Handle("GET /dehydrated_device", c.getDehydrated)
	g.Handle("DELETE /dehydrated_device", c.deleteDehydrated)
	// The proposal has GET, and leaves next_batch out at the end. Element's clients POST until they get no more events.
	g.Handle("GET /dehydrated_device/{deviceId}/events", c.dehydratedEvents)
	g.Handle("POST /dehydrated_device/{deviceId}/events", c.postDehydratedEvents)
}

// putDehydrated answers PUT /dehydrated_device (MSC3814, "Dehydrating a device").
func (c *Keys) putDehydrated(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		DeviceID string          `json:"device_id"`
		Data     json.RawMessage `json:"device_data"`
		Name     *string         `json:"initial_device_display_name"`
		keyUpload
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	var data struct {
		Algorithm *string `json:"algorithm"`
	}
	switch {
	case q.DeviceID == "":
		return merr.MissingParam("device_id")
	case len(q.Data) == 0:
		return merr.MissingParam("device_data")
	case len(q.Data) > maxDehydrated:
		return merr.TooLarge("device_data is too large")
	case json.Unmarshal(q.Data, &data) != nil || data.Algorithm == nil:
		return merr.BadJSON("device_data must be an object with an algorithm")
	case len(q.DeviceKeys) == 0 || string(q.DeviceKeys) == "null":
		return merr.MissingParam("device_keys")
	}
	name := ""
	if q.Name != nil {
		name = *q.Name
	}
	if err := account.CheckDevice(q.DeviceID, name); err != nil {
		return err
	}
	keys, err := q.parse(core.Me(r).User, id.Device(q.DeviceID))
	if err != nil {
		return err
	}
	if len(keys.OneTime) > maxKeyUpload {
		return merr.InvalidParam("Too many one-time keys in one request")
	}
	tasks, err := c.Users.PutDehydrated(r.Context(), q.Data, q.Name, keys)
	if errors.Is(err, userdb.ErrDeviceInUse) {
		return merr.InvalidParam("A device with this ID exists")
	}
	if err != nil {
		return err
	}
	c.Tasks.StartAndWait(r.Context(), tasks...)
	return httpx.OK(w, map[string]string{"device_id": q.DeviceID})
}

// getDehydrated answers GET /dehydrated_device (MSC3814, "Rehydrating a device").
func (c *Keys) getDehydrated(w http.ResponseWriter, r *http.Request) error {
	d, err := c.dehydrated(r)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{"device_id": d.Device, "device_data": d.Data})
}

func (c *Keys) dehydrated(r *http.Request) (userdb.Dehydrated, error) {
	d, err := c.Users.Dehydrated(r.Context(), core.Me(r).User)
	if errors.Is(err, userdb.ErrNotFound) {
		err = merr.NotFound(noDehydrated)
	}
	return d, err
}

// deleteDehydrated answers DELETE /dehydrated_device (MSC3814, "Deleting a dehydrated device").
func (c *Keys) deleteDehydrated(w http.ResponseWriter, r *http.Request) error {
	d, err := c.dehydrated(r)
	if err != nil {
		return err
	}
	if err := c.account.DeleteDevices(r.Context(), core.Me(r).User, []id.Device{d.Device}); err != nil {
		return err
	}
	return httpx.OK(w, map[string]id.Device{"device_id": d.Device})
}

func (c *Keys) dehydratedEvents(w http.ResponseWriter, r *http.Request) error {
	events, next, more, err := c.dehydratedSince(r, r.URL.Query().Get("from"))
	if err != nil {
		return err
	}
	answer := map[string]any{"events": events}
	if more {
		answer["next_batch"] = next
	}
	return httpx.OK(w, answer)
}

func (c *Keys) postDehydratedEvents(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		NextBatch string `json:"next_batch"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	events, next, _, err := c.dehydratedSince(r, q.NextBatch)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{"events": events, "next_batch": next})
}

// dehydratedEvent is a to-device message as in an answer of /sync.
type dehydratedEvent struct {
	Content json.RawMessage `json:"content"`
	Sender  id.User         `json:"sender"`
	Type    string          `json:"type"`
}

// dehydratedSince returns the messages behind a token, which stay until the device is deleted, and the token behind them.
func (c *Keys) dehydratedSince(r *http.Request, from string) (events []dehydratedEvent, next string, more bool, err error) {
	user := core.Me(r).User
	device, err := c.dehydrated(r)
	if err != nil {
		return nil, "", false, err
	}
	if device.Device != id.Device(core.Param(r, "deviceId")) {
		return nil, "", false, merr.Forbidden("Not the dehydrated device")
	}
	var after int64
	if from != "" {
		if after, err = strconv.ParseInt(from, 10, 64); err != nil || after < 0 {
			return nil, "", false, merr.InvalidParam("Not a token of this endpoint")
		}
	}
	upTo, err := c.Users.Seq(r.Context(), user)
	if err != nil {
		return nil, "", false, err
	}
	messages, end, err := c.Users.ToDeviceSince(r.Context(), user, device.Device, after, upTo, dehydratedMessages, dehydratedBytes)
	if err != nil {
		return nil, "", false, err
	}
	events = make([]dehydratedEvent, len(messages))
	for i, m := range messages {
		events[i] = dehydratedEvent{m.Content, m.Sender, m.Type}
	}
	return events, strconv.FormatInt(end, 10), end < upTo, nil
}
