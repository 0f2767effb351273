package fedin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
)

// What updates from other servers do to the device lists that we hold of their users (server-server API, "Device Management").

// maxRemoteList bounds what we keep of one user's devices, in bytes.
const maxRemoteList = 512 << 10

// deviceUpdate is the content of m.device_list_update (server-server API, "Device Management").
type deviceUpdate struct {
	User        string          `json:"user_id"`
	Device      id.Device       `json:"device_id"`
	DisplayName string          `json:"device_display_name"`
	Stream      int64           `json:"stream_id"`
	Previous    []int64         `json:"prev_id"`
	Deleted     bool            `json:"deleted"`
	Keys        json.RawMessage `json:"keys"`
}

// deviceList is a device list that we hold, taken apart.
type deviceList struct {
	members map[string]json.RawMessage
	devices []map[string]json.RawMessage
}

func parseDeviceList(content json.RawMessage) (l deviceList, ok bool) {
	ok = json.Unmarshal(content, &l.members) == nil && json.Unmarshal(l.members["devices"], &l.devices) == nil
	return l, ok
}

// index is the place of a device in the list, -1 if it is not there.
func (l *deviceList) index(device id.Device) int {
	return slices.IndexFunc(l.devices, func(d map[string]json.RawMessage) bool {
		var name id.Device
		return json.Unmarshal(d["device_id"], &name) == nil && name == device
	})
}

// entry is what the update says of its device, as it stands in a list; nil if the device is gone.
func (u *deviceUpdate) entry() map[string]json.RawMessage {
	if u.Deleted || len(u.Keys) == 0 || u.Keys[0] != '{' {
		return nil
	}
	d := map[string]json.RawMessage{"device_id": quoted(string(u.Device)), "keys": u.Keys}
	if u.DisplayName != "" {
		d["device_display_name"] = quoted(u.DisplayName)
	}
	return d
}

// repeats says whether the update tells what is known: it does not go on from where the list stands, and the device is as it
// says. Some servers send one and the same stream id for ever, so that the id alone tells nothing.
func (u *deviceUpdate) repeats(old userdb.RemoteList) bool {
	if old.Stale || u.Stream > old.StreamID {
		return false
	}
	list, ok := parseDeviceList(old.Content)
	if !ok {
		return false
	}
	is, at := u.entry(), list.index(u.Device)
	if at < 0 || is == nil {
		return at < 0 && is == nil
	}
	have := list.devices[at]
	return sameKeys(have["keys"], is["keys"]) && bytes.Equal(have["device_display_name"], is["device_display_name"])
}

// sameKeys compares two objects by what they say.
func sameKeys(a, b json.RawMessage) bool {
	x, err := canonjson.CanonicalLoose(a)
	if err != nil {
		return false
	}
	y, err := canonjson.CanonicalLoose(b)
	return err == nil && bytes.Equal(x, y)
}

// apply changes a list by an update. If it cannot be told that none is missing in between, or if the list is not
// understood, it is stale: the next who asks for it makes us fetch it anew.
func (u *deviceUpdate) apply(old userdb.RemoteList) userdb.RemoteList {
	next := old
	next.News++
	next.Stale = true
	if old.Stale || u.Stream <= old.StreamID || !slices.Contains(u.Previous, old.StreamID) || slices.Max(u.Previous) > old.StreamID {
		return next
	}
	list, ok := parseDeviceList(old.Content)
	if !ok {
		return next
	}
	if at := list.index(u.Device); at >= 0 {
		list.devices = slices.Delete(list.devices, at, at+1)
	}
	if d := u.entry(); d != nil {
		list.devices = append(list.devices, d)
	}
	var err error
	if list.members["devices"], err = json.Marshal(list.devices); err != nil {
		return next
	}
	list.members["stream_id"] = fmt.Appendf(nil, "%d", u.Stream)
	content, err := json.Marshal(list.members)
	if err != nil || len(content) > maxRemoteList {
		return next
	}
	next.Stale, next.StreamID, next.Content = false, u.Stream, content
	return next
}

// signingKeys is the content of m.signing_key_update.
type signingKeys struct {
	User        string          `json:"user_id"`
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
}

// repeats says whether the list has these keys.
func (u *signingKeys) repeats(old userdb.RemoteList) bool {
	list, ok := parseDeviceList(old.Content)
	return ok && !old.Stale && sameKeys(list.members["master_key"], u.Master) &&
		(u.SelfSigning == nil || sameKeys(list.members["self_signing_key"], u.SelfSigning))
}

// quoted is s as a JSON string.
func quoted(s string) json.RawMessage { return httpx.AppendString(nil, s) }
