package keys

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

const (
	keyTimeout    = 10 * time.Second // "10 seconds is the recommended default"
	maxKeyTimeout = 60 * time.Second
	serversAtOnce = 16
	maxKeyUsers   = 10_000
)

type keyQuery struct {
	TimeoutMS *int64                  `json:"timeout"`
	Users     *map[string][]id.Device `json:"device_keys"`
}

// keyAnswer collects what is found for POST /keys/query.
type keyAnswer struct {
	mu          sync.Mutex
	Failures    map[id.Server]any                                   `json:"failures"`
	DeviceKeys  map[id.User]map[id.Device]json.RawMessage           `json:"device_keys"`
	MasterKeys  map[id.User]json.RawMessage                         `json:"master_keys"`
	SelfSigning map[id.User]json.RawMessage                         `json:"self_signing_keys"`
	UserSigning map[id.User]json.RawMessage                         `json:"user_signing_keys"`
	signed      map[id.User]map[string]map[string]map[string]string // by the viewer, on keys of others
}

// timeout is how long to wait for other servers.
func (q *keyQuery) timeout() time.Duration { return boundedTimeout(q.TimeoutMS) }

func boundedTimeout(ms *int64) time.Duration {
	if ms == nil || *ms <= 0 {
		return keyTimeout
	}
	return min(time.Duration(min(*ms, int64(maxKeyTimeout/time.Millisecond)))*time.Millisecond, maxKeyTimeout)
}

// queryKeys answers POST /keys/query (client-server API, "Key management API").
func (c *Keys) queryKeys(w http.ResponseWriter, r *http.Request) error {
	var q keyQuery
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Users == nil {
		return merr.MissingParam("device_keys")
	}
	if len(*q.Users) > maxKeyUsers {
		return merr.InvalidParam("Too many users")
	}
	wanted := make(map[id.User][]id.Device, len(*q.Users))
	var local, remote []id.User
	for text, devices := range *q.Users {
		u, err := id.ParseUser(text)
		if err != nil {
			return merr.InvalidParam("Not a user ID: " + text)
		}
		wanted[u] = devices
		if c.IsLocal(u) {
			local = append(local, u)
		} else {
			remote = append(remote, u)
		}
	}
	a := &keyAnswer{
		Failures: map[id.Server]any{}, DeviceKeys: map[id.User]map[id.Device]json.RawMessage{},
		MasterKeys: map[id.User]json.RawMessage{}, SelfSigning: map[id.User]json.RawMessage{}, UserSigning: map[id.User]json.RawMessage{},
	}
	ctx, viewer := r.Context(), core.Me(r).User
	if err := c.localKeys(ctx, a, local, viewer); err != nil {
		return err
	}
	c.serviceKeys(ctx, a, local, wanted, viewer)
	if err := c.remoteKeys(ctx, a, remote, viewer, q.timeout()); err != nil {
		return err
	}
	for u, devices := range wanted {
		if have := a.DeviceKeys[u]; have != nil && len(devices) > 0 {
			for dev := range have {
				if !slices.Contains(devices, dev) {
					delete(have, dev)
				}
			}
		}
	}
	return httpx.OK(w, a)
}

func (c *Keys) localKeys(ctx context.Context, a *keyAnswer, users []id.User, viewer id.User) error {
	found, err := c.Users.KeysOf(ctx, users, viewer)
	if err != nil {
		return err
	}
	for _, u := range users {
		devices := make(map[id.Device]json.RawMessage)
		a.DeviceKeys[u] = devices // also for users who do not exist: who asks learns nothing (MSC4263)
		k := found[u]
		if k == nil {
			continue
		}
		for dev, raw := range k.Devices {
			if devices[dev], err = withDeviceName(raw, k.Names[dev]); err != nil {
				return err
			}
		}
		for usage, into := range map[string]map[id.User]json.RawMessage{
			userdb.MasterKey: a.MasterKeys, userdb.SelfSigningKey: a.SelfSigning, userdb.UserSigningKey: a.UserSigning,
		} {
			if raw := k.CrossSigning[usage]; raw != nil {
				into[u] = raw
			}
		}
	}
	return nil
}

// serviceKeys puts what application services tell of the keys of their users before what is stored (MSC3984).
func (c *Keys) serviceKeys(ctx context.Context, a *keyAnswer, local []id.User, wanted map[id.User][]id.Device, viewer id.User) {
	ask := make(map[id.User][]id.Device, len(local))
	for _, u := range local {
		ask[u] = wanted[u]
	}
	told := c.Queries.Keys(ctx, ask)
	for u, devices := range told.Devices {
		maps.Copy(a.DeviceKeys[u], devices)
	}
	maps.Copy(a.MasterKeys, told.Master)
	maps.Copy(a.SelfSigning, told.SelfSigning)
	if raw := told.UserSigning[viewer]; raw != nil {
		a.UserSigning[viewer] = raw
	}
}

// withDeviceName adds unsigned.device_display_name.
func withDeviceName(raw json.RawMessage, name string) (json.RawMessage, error) {
	if name == "" {
		return raw, nil
	}
	var obj map[string]json.RawMessage
	if err := json.Unmarshal(raw, &obj); err != nil {
		return nil, err
	}
	unsigned, err := json.Marshal(map[string]string{"device_display_name": name})
	if err != nil {
		return nil, err
	}
	obj["unsigned"] = unsigned
	return json.Marshal(obj)
}

// remoteDevices is the answer of GET /_matrix/federation/v1/user/devices/{userId}.
type remoteDevices struct {
	UserID   id.User `json:"user_id"`
	StreamID int64   `json:"stream_id"`
	Devices  []struct {
		DeviceID    id.Device       `json:"device_id"`
		DisplayName string          `json:"device_display_name"`
		Keys        json.RawMessage `json:"keys"`
	} `json:"devices"`
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
}

// remoteKeys answers for users of other servers: from the device lists that we follow, else by asking their servers.
func (c *Keys) remoteKeys(ctx context.Context, a *keyAnswer, users []id.User, viewer id.User, timeout time.Duration) error {
	if len(users) == 0 {
		return nil
	}
	lists, err := c.Users.RemoteLists(ctx, users)
	if err != nil {
		return err
	}
	if a.signed, err = c.Users.SignaturesOn(ctx, users, viewer); err != nil {
		return err
	}
	good, err := c.sharing.InSight(ctx, lists)
	if err != nil {
		return err
	}
	users = slices.DeleteFunc(users, func(u id.User) bool { return good[u] && a.addList(u, lists[u].Content) == nil })
	seen, err := c.sharing.Sightings(ctx, viewer, users)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(serversAtOnce)
	for server, users := range byServer(users) {
		var follow, ask []id.User
		for _, u := range users {
			if _, ok := seen[u]; ok {
				follow = append(follow, u)
			} else {
				ask = append(ask, u)
			}
		}
		g.Go(func() error {
			if len(follow) > 0 {
				ask = append(ask, c.followDevices(ctx, a, viewer.Server(), server, follow, seen, timeout)...)
			}
			if len(ask) > 0 {
				c.askKeys(ctx, a, viewer.Server(), server, ask, timeout)
			}
			return nil
		})
	}
	return g.Wait()
}

func byServer(users []id.User) map[id.Server][]id.User {
	out := make(map[id.Server][]id.User)
	for _, u := range users {
		out[u.Server()] = append(out[u.Server()], u)
	}
	return out
}

// followDevices fetches the device lists of users whom we share a room with: their server tells us of changes from now
// on. It returns those for whom that did not work.
func (c *Keys) followDevices(ctx context.Context, a *keyAnswer, origin, server id.Server, users []id.User, seen map[id.User]userdb.Sighting, timeout time.Duration) (failed []id.User) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(4)
	for _, u := range users {
		g.Go(func() error {
			if err := c.followOne(ctx, a, origin, u, seen[u], timeout); err != nil {
				c.Log.DebugContext(ctx, "device list not fetched", "user", u, "err", err)
				mu.Lock()
				failed = append(failed, u)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
	return failed
}

// followOne fetches a user's device list. What we saw of the user, and what we heard, comes before the request: if either
// changes meanwhile, the answer may be too old already.
func (c *Keys) followOne(ctx context.Context, a *keyAnswer, origin id.Server, u id.User, seen userdb.Sighting, timeout time.Duration) error {
	news, err := c.Users.FollowRemoteList(ctx, u)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	uri := "/_matrix/federation/v1/user/devices/" + url.PathEscape(string(u))
	if err := c.FederateSparing(ctx, origin, u.Server(), http.MethodGet, uri, nil, &raw, timeout); err != nil {
		return err
	}
	var d remoteDevices
	if err := json.Unmarshal(raw, &d); err != nil {
		return err
	}
	if err := a.addList(u, raw); err != nil {
		return err
	}
	return c.Users.UpdateRemoteList(ctx, u, func(old userdb.RemoteList) (userdb.RemoteList, bool) {
		return userdb.RemoteList{StreamID: d.StreamID, Stale: old.News != news, Content: raw, News: old.News, Seen: seen}, true
	})
}

var errWrongUser = merr.BadGateway("The other server answered for another user")

// addList adds what a device list says of a user to the answer.
func (a *keyAnswer) addList(u id.User, raw json.RawMessage) error {
	var d remoteDevices
	if err := json.Unmarshal(raw, &d); err != nil {
		return err
	}
	if d.UserID != u {
		return errWrongUser
	}
	devices := make(map[id.Device]json.RawMessage, len(d.Devices))
	for _, dev := range d.Devices {
		if named, err := withDeviceName(dev.Keys, dev.DisplayName); err == nil {
			devices[dev.DeviceID] = named
		}
	}
	a.add(u, devices, d.Master, d.SelfSigning)
	return nil
}

// add adds keys of a user of another server that are what they should be: the user's and the device's. Signatures of
// the viewer are merged in.
func (a *keyAnswer) add(u id.User, devices map[id.Device]json.RawMessage, master, selfSigning json.RawMessage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	good := make(map[id.Device]json.RawMessage, len(devices))
	for dev, raw := range devices {
		var k struct {
			UserID   id.User   `json:"user_id"`
			DeviceID id.Device `json:"device_id"`
		}
		if json.Unmarshal(raw, &k) == nil && k.UserID == u && k.DeviceID == dev {
			good[dev] = raw
		}
	}
	a.DeviceKeys[u] = good
	for _, k := range []struct {
		raw  json.RawMessage
		into map[id.User]json.RawMessage
	}{{master, a.MasterKeys}, {selfSigning, a.SelfSigning}} {
		var owner struct {
			UserID id.User `json:"user_id"`
		}
		if len(k.raw) == 0 || json.Unmarshal(k.raw, &owner) != nil || owner.UserID != u {
			continue
		}
		k.into[u] = k.raw
		if merged, err := userdb.Merge(k.raw, a.signed[u][userdb.PublicKey(k.raw)]); err == nil {
			k.into[u] = merged
		}
	}
}

func (a *keyAnswer) fail(server id.Server, err error) {
	e := merr.From(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Failures[server] = map[string]any{"status": e.Status, "message": e.Msg}
}

// askKeys asks a server for keys of users whom we do not follow (server-server API, "End-to-End Encryption").
func (c *Keys) askKeys(ctx context.Context, a *keyAnswer, origin, server id.Server, users []id.User, timeout time.Duration) {
	q := make(map[id.User][]id.Device, len(users))
	for _, u := range users {
		q[u] = []id.Device{}
	}
	var answer struct {
		DeviceKeys  map[id.User]map[id.Device]json.RawMessage `json:"device_keys"`
		Master      map[id.User]json.RawMessage               `json:"master_keys"`
		SelfSigning map[id.User]json.RawMessage               `json:"self_signing_keys"`
	}
	err := c.FederateSparing(ctx, origin, server, http.MethodPost, "/_matrix/federation/v1/user/keys/query",
		map[string]any{"device_keys": q}, &answer, timeout)
	if err != nil {
		a.fail(server, err)
		return
	}
	for _, u := range users {
		if devices, ok := answer.DeviceKeys[u]; ok {
			a.add(u, devices, answer.Master[u], answer.SelfSigning[u])
		}
	}
}
