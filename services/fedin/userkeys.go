package fedin

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
)

const (
	// maxKeyUsers bounds the users of one request, claimsAtOnce the users whose keys are claimed at a time.
	maxKeyUsers, claimsAtOnce = 10_000, 8
)

// queryUserKeys answers POST user/keys/query (server-server API, "End-to-End Encryption").
func (f *Fedin) queryUserKeys(w http.ResponseWriter, q *request) error {
	var body struct {
		Users *map[string][]id.Device `json:"device_keys"`
	}
	if err := q.decode(&body); err != nil {
		return err
	}
	if body.Users == nil {
		return merr.MissingParam("device_keys")
	}
	if len(*body.Users) > maxKeyUsers {
		return merr.InvalidParam("Too many users")
	}
	wanted := make(map[id.User][]id.Device, len(*body.Users))
	users := make([]id.User, 0, len(*body.Users))
	for text, devices := range *body.Users {
		u, err := f.localUser(text)
		if err != nil {
			return err
		}
		wanted[u], users = devices, append(users, u)
	}
	found, err := f.users.KeysOf(q.Context(), users, "")
	if err != nil {
		return err
	}
	devices := make(map[id.User]map[id.Device]json.RawMessage, len(users))
	master, selfSigning := map[id.User]json.RawMessage{}, map[id.User]json.RawMessage{}
	for _, u := range users {
		devices[u] = map[id.Device]json.RawMessage{}
		k := found[u]
		if k == nil {
			continue
		}
		for device, raw := range k.Devices {
			if len(wanted[u]) == 0 || slices.Contains(wanted[u], device) {
				devices[u][device] = raw
			}
		}
		if raw := k.CrossSigning[userdb.MasterKey]; raw != nil {
			master[u] = raw
		}
		if raw := k.CrossSigning[userdb.SelfSigningKey]; raw != nil {
			selfSigning[u] = raw
		}
	}
	told := f.queries.Keys(q.Context(), wanted)
	for u, some := range told.Devices {
		for device, raw := range some {
			if len(wanted[u]) == 0 || slices.Contains(wanted[u], device) {
				devices[u][device] = raw
			}
		}
	}
	maps.Copy(master, told.Master)
	maps.Copy(selfSigning, told.SelfSigning)
	return httpx.OK(w, map[string]any{"device_keys": devices, "master_keys": master, "self_signing_keys": selfSigning})
}

// claimUserKeys answers POST user/keys/claim.
func (f *Fedin) claimUserKeys(w http.ResponseWriter, q *request) error {
	var body struct {
		Keys *map[string]map[id.Device]string `json:"one_time_keys"`
	}
	if err := q.decode(&body); err != nil {
		return err
	}
	if body.Keys == nil {
		return merr.MissingParam("one_time_keys")
	}
	if len(*body.Keys) > maxKeyUsers {
		return merr.InvalidParam("Too many users")
	}
	wanted := make(map[id.User]map[id.Device]string, len(*body.Keys))
	for text, devices := range *body.Keys {
		u, err := f.localUser(text)
		if err != nil {
			return err
		}
		for device, algorithm := range devices {
			if _, err := id.ParseDevice(string(device)); err != nil || !plain(algorithm) {
				return merr.InvalidParam("Not a device ID or an algorithm")
			}
		}
		wanted[u] = devices
	}
	var mu sync.Mutex
	out := make(map[id.User]map[id.Device]map[string]json.RawMessage, len(wanted))
	g, ctx := errgroup.WithContext(q.Context())
	g.SetLimit(claimsAtOnce)
	for u, devices := range wanted {
		g.Go(func() error {
			claimed, err := f.queries.Claim(ctx, f.users, u, devices)
			if err != nil || len(claimed) == 0 {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			out[u] = claimed
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return httpx.OK(w, map[string]any{"one_time_keys": out})
}

// userDevice is a device in the answer of GET user/devices.
type userDevice struct {
	Device id.Device       `json:"device_id"`
	Keys   json.RawMessage `json:"keys"`
}

// userDevices answers GET user/devices/{userId} (server-server API, "Device Management").
func (f *Fedin) userDevices(w http.ResponseWriter, q *request) error {
	user, err := f.localUser(q.param("userId"))
	if err != nil {
		return err
	}
	exists, err := f.users.AccountExists(q.Context(), user)
	if err != nil {
		return err
	}
	if !exists {
		return merr.NotFound("User not found")
	}
	// The position comes first: the list may then be newer than it says, and what the asker hears next is told once too often.
	stream, err := f.users.DeviceListStream(q.Context(), user)
	if err != nil {
		return err
	}
	found, err := f.users.KeysOf(q.Context(), []id.User{user}, "")
	if err != nil {
		return err
	}
	answer := struct {
		User        id.User         `json:"user_id"`
		Stream      int64           `json:"stream_id"`
		Devices     []userDevice    `json:"devices"`
		Master      json.RawMessage `json:"master_key,omitempty"`
		SelfSigning json.RawMessage `json:"self_signing_key,omitempty"`
	}{User: user, Stream: stream, Devices: []userDevice{}}
	if k := found[user]; k != nil {
		answer.Master, answer.SelfSigning = k.CrossSigning[userdb.MasterKey], k.CrossSigning[userdb.SelfSigningKey]
		for device, raw := range k.Devices {
			answer.Devices = append(answer.Devices, userDevice{device, raw})
		}
		slices.SortFunc(answer.Devices, func(a, b userDevice) int { return cmp.Compare(a.Device, b.Device) })
	}
	return httpx.OK(w, answer)
}
