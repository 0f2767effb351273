package userdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"hanse/pkg/matrix/id"
)

// DeviceEDU makes what other servers must hear of a change of one of our user's devices: m.device_list_update of the
// device as it is now, or for device "" m.signing_key_update (server-server API, "Device Management"). content is nil if
// there is nothing to tell.
func (d *DB) DeviceEDU(ctx context.Context, user id.User, device id.Device, streamID int64) (eduType string, content []byte, err error) {
	found, err := d.KeysOf(ctx, []id.User{user}, "")
	if err != nil {
		return "", nil, err
	}
	keys := found[user]
	if keys == nil {
		keys = new(UserKeys)
	}
	if device == "" {
		master := keys.CrossSigning[MasterKey]
		if master == nil {
			return "m.signing_key_update", nil, nil
		}
		edu := map[string]any{"user_id": user, "master_key": master}
		if self := keys.CrossSigning[SelfSigningKey]; self != nil {
			edu["self_signing_key"] = self
		}
		content, err = json.Marshal(edu)
		return "m.signing_key_update", content, err
	}
	edu := map[string]any{"user_id": user, "device_id": device, "stream_id": streamID, "prev_id": []int64{}}
	if streamID > 1 {
		edu["prev_id"] = []int64{streamID - 1}
	}
	if k := keys.Devices[device]; k != nil {
		edu["keys"] = k
	} else if _, err := d.Device(ctx, user, device); errors.Is(err, ErrNotFound) {
		edu["deleted"] = true
	} else if err != nil {
		return "", nil, fmt.Errorf("read device: %w", err)
	}
	content, err = json.Marshal(edu)
	return "m.device_list_update", content, err
}
