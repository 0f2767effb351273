package keys

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

const (
	// maxKeyUpload bounds the one-time keys of one request, maxOneTimeKeys those that a device may have.
	maxKeyUpload   = 1000
	maxOneTimeKeys = 5000
	signedCurve    = "signed_curve25519"
)

func (c *Keys) keyRoutes(rt *core.Routes) {
	rt.Guest.Handle("POST /keys/upload", c.uploadKeys)
	rt.Guest.Handle("POST /keys/upload/{deviceId}", c.uploadKeys)
	rt.Guest.Handle("POST /keys/query", c.queryKeys)
	rt.Guest.Handle("POST /keys/claim", c.claimKeys)
	rt.Auth.Handle("GET /keys/changes", c.keyChanges)
}

type keyUpload struct {
	DeviceKeys json.RawMessage            `json:"device_keys"`
	OneTime    map[string]json.RawMessage `json:"one_time_keys"`
	Fallback   map[string]json.RawMessage `json:"fallback_keys"`
	// The name before the specification had fallback keys; older clients send it still.
	FallbackOld map[string]json.RawMessage `json:"org.matrix.msc2732.fallback_keys"`
}

// uploadKeys answers POST /keys/upload (client-server API, "Key management API").
func (c *Keys) uploadKeys(w http.ResponseWriter, r *http.Request) error {
	i := core.Me(r)
	device, err := i.DeviceOrError()
	if err != nil {
		return err
	}
	if p := core.Param(r, "deviceId"); p != "" && id.Device(p) != device {
		return merr.InvalidParam("The device in the path is not that of the access token")
	}
	var q keyUpload
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	up, err := q.parse(i.User, device)
	if err != nil {
		return err
	}
	ctx := r.Context()
	if len(up.OneTime) > 0 {
		if err := c.roomForKeys(r, device, len(up.OneTime)); err != nil {
			return err
		}
	}
	if up.Identity != nil || len(up.OneTime)+len(up.Fallbacks) > 0 {
		task, err := c.Users.UploadKeys(ctx, up)
		var exists *userdb.ErrKeyExists
		if errors.As(err, &exists) {
			return merr.New(http.StatusBadRequest, merr.CodeUnknown, exists.Error())
		}
		if err != nil {
			return err
		}
		if task != nil {
			c.Tasks.StartAndWait(ctx, *task)
		}
	}
	counts, err := c.Users.OneTimeKeyCounts(ctx, i.User, device)
	if err != nil {
		return err
	}
	if _, ok := counts[signedCurve]; !ok {
		counts[signedCurve] = 0 // clients wait for this one in particular
	}
	return httpx.OK(w, map[string]any{"one_time_key_counts": counts})
}

// parse checks the keys of an upload for a device.
func (q *keyUpload) parse(user id.User, device id.Device) (up userdb.KeyUpload, err error) {
	if q.Fallback == nil {
		q.Fallback = q.FallbackOld
	}
	up = userdb.KeyUpload{User: user, Device: device}
	if up.Identity, err = identityKeys(q.DeviceKeys, user, device); err != nil {
		return up, err
	}
	if up.OneTime, err = parseKeys("one_time_keys", q.OneTime); err != nil {
		return up, err
	}
	if up.Fallbacks, err = parseKeys("fallback_keys", q.Fallback); err != nil {
		return up, err
	}
	return up, oneForEachAlgorithm(up.Fallbacks)
}

// roomForKeys refuses one-time keys beyond what a device may have.
func (c *Keys) roomForKeys(r *http.Request, device id.Device, more int) error {
	if more > maxKeyUpload {
		return merr.InvalidParam("Too many one-time keys in one request")
	}
	counts, err := c.Users.OneTimeKeyCounts(r.Context(), core.Me(r).User, device)
	if err != nil {
		return err
	}
	for _, n := range counts {
		more += n
	}
	if more > maxOneTimeKeys {
		return merr.New(http.StatusBadRequest, merr.CodeLimitExceeded, "The device has too many one-time keys")
	}
	return nil
}

// identityKeys checks the identity keys of a device and returns them in canonical form; nil if there are none.
func identityKeys(raw json.RawMessage, user id.User, device id.Device) (json.RawMessage, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var k struct {
		UserID     *id.User                     `json:"user_id"`
		DeviceID   *id.Device                   `json:"device_id"`
		Algorithms *[]string                    `json:"algorithms"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := httpx.Unmarshal(raw, &k); err != nil {
		return nil, err
	}
	switch {
	case k.UserID == nil || k.DeviceID == nil || k.Algorithms == nil || k.Keys == nil:
		return nil, merr.BadJSON("device_keys must have user_id, device_id, algorithms and keys")
	case *k.UserID != user:
		return nil, merr.InvalidParam("user_id of device_keys is not that of the access token")
	case *k.DeviceID != device:
		return nil, merr.InvalidParam("device_id of device_keys is not that of the access token")
	}
	for name := range k.Keys {
		if algorithm, of, ok := strings.Cut(name, ":"); !ok || algorithm == "" || id.Device(of) != device {
			return nil, merr.InvalidParam("The names of keys must be <algorithm>:<device_id>")
		}
	}
	canonical, err := canonjson.Canonical(raw)
	if err != nil {
		return nil, merr.BadJSON("device_keys is not canonical JSON: " + err.Error())
	}
	return canonical, nil
}

// parseKeys reads one-time or fallback keys: <algorithm>:<key id> to a string or a signed object.
func parseKeys(member string, in map[string]json.RawMessage) ([]userdb.OneTimeKey, error) {
	keys := make([]userdb.OneTimeKey, 0, len(in))
	for name, raw := range in {
		algorithm, keyID, ok := strings.Cut(name, ":")
		if !ok || algorithm == "" || keyID == "" || len(name) > 255 {
			return nil, merr.BadJSON(member + ": names must be <algorithm>:<key_id>")
		}
		var text string
		var object struct {
			Key *string `json:"key"`
		}
		if json.Unmarshal(raw, &text) != nil && (json.Unmarshal(raw, &object) != nil || object.Key == nil) {
			return nil, merr.BadJSON(member + ": " + name + " must be a string or an object with a key")
		}
		canonical, err := canonjson.Canonical(raw)
		if err != nil {
			return nil, merr.BadJSON(member + ": " + err.Error())
		}
		keys = append(keys, userdb.OneTimeKey{Algorithm: algorithm, ID: keyID, Key: canonical})
	}
	return keys, nil
}

func oneForEachAlgorithm(keys []userdb.OneTimeKey) error {
	seen := make(map[string]bool, len(keys))
	for _, k := range keys {
		if seen[k.Algorithm] {
			return merr.InvalidParam("fallback_keys: more than one key for " + k.Algorithm)
		}
		seen[k.Algorithm] = true
	}
	return nil
}
