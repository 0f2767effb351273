package asquery

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
)

// maxKeys bounds the answer of a service that is asked for keys, in bytes.
const maxKeys = 4 << 20

// Claimed are claimed keys of devices, each by algorithm and id.
type Claimed map[id.Device]map[string]json.RawMessage

// Claim claims a key of each device of a local user. Where there is no one-time key, a service that has the user to itself is asked
// for one (MSC3983); what it does not give, the fallback keys make up for.
func (c *Client) Claim(ctx context.Context, db *userdb.DB, user id.User, wanted map[id.Device]string) (Claimed, error) {
	owner := c.keyKeeper(user, kindClaim)
	if owner == nil {
		return claim(ctx, user, wanted, make(Claimed), db.ClaimKeys)
	}
	got, err := claim(ctx, user, wanted, make(Claimed), db.ClaimOneTimeKeys)
	if err != nil || len(got) == len(wanted) {
		return got, err
	}
	c.claimOf(ctx, owner, user, wanted, got)
	return claim(ctx, user, wanted, got, db.ClaimKeys)
}

// claim adds what a function claims for the devices that have no key yet.
func claim(ctx context.Context, user id.User, wanted map[id.Device]string, got Claimed,
	f func(context.Context, id.User, map[id.Device]string) (map[id.Device]userdb.OneTimeKey, error)) (Claimed, error) {
	rest := make(map[id.Device]string, len(wanted))
	for device, algorithm := range wanted {
		if got[device] == nil {
			rest[device] = algorithm
		}
	}
	if len(rest) == 0 {
		return got, nil
	}
	keys, err := f(ctx, user, rest)
	for device, k := range keys {
		got[device] = map[string]json.RawMessage{k.Algorithm + ":" + k.ID: k.Key}
	}
	return got, err
}

// keyKeeper returns the service to ask for keys of a user: the one that has the user to itself, if it answers such questions.
func (c *Client) keyKeeper(user id.User, kind string) *appservice.Service {
	if c == nil {
		return nil
	}
	s := c.apps.OwnerOfUser(user)
	if s == nil || !c.answers(s) {
		return nil
	}
	if _, lacks := c.lacks.Peek(lack{s, kind}); lacks {
		return nil
	}
	return s
}

// claimOf asks a service for keys of the devices that have none yet.
func (c *Client) claimOf(ctx context.Context, s *appservice.Service, user id.User, wanted map[id.Device]string, got Claimed) {
	ask := make(map[id.Device][]string)
	for device, algorithm := range wanted {
		if got[device] == nil {
			ask[device] = []string{algorithm}
		}
	}
	var answer map[id.User]map[id.Device]map[string]json.RawMessage
	if !c.askKeys(ctx, s, kindClaim, "/_matrix/app/unstable/org.matrix.msc3983/keys/claim", map[id.User]any{user: ask}, &answer) {
		return
	}
	for device := range ask {
		for name, key := range answer[user][device] {
			if strings.HasPrefix(name, wanted[device]+":") && isObject(key) {
				got[device] = map[string]json.RawMessage{name: key}
				break
			}
		}
	}
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }

// askKeys makes a request and decodes the answer; false if there is none.
func (c *Client) askKeys(ctx context.Context, s *appservice.Service, kind, path string, body, answer any) bool {
	raw, err := json.Marshal(body)
	if err != nil {
		return false
	}
	a, err := c.ask(ctx, s, kind, asclient.Request{Method: http.MethodPost, Path: path, Body: raw, Timeout: lookTime, MaxAnswer: maxKeys})
	if err != nil {
		return false
	}
	if unknown(a) {
		c.lacks.Add(lack{s, kind}, struct{}{})
	}
	return a.OK() && json.Unmarshal(a.Body, answer) == nil
}

// Keys is what services tell of the keys of their users.
type Keys struct {
	Devices     map[id.User]map[id.Device]json.RawMessage `json:"device_keys"`
	Master      map[id.User]json.RawMessage               `json:"master_keys"`
	SelfSigning map[id.User]json.RawMessage               `json:"self_signing_keys"`
	UserSigning map[id.User]json.RawMessage               `json:"user_signing_keys"`
}

// Keys asks the services that have local users to themselves for these users' keys (MSC3984). No devices are all devices. An answer
// goes before what is stored here; what is not that of the user and the device that it is told for is left out.
func (c *Client) Keys(ctx context.Context, wanted map[id.User][]id.Device) Keys {
	out := Keys{Devices: map[id.User]map[id.Device]json.RawMessage{}, Master: map[id.User]json.RawMessage{},
		SelfSigning: map[id.User]json.RawMessage{}, UserSigning: map[id.User]json.RawMessage{}}
	if c == nil || len(c.apps.All()) == 0 {
		return out
	}
	byService := make(map[*appservice.Service]map[id.User][]id.Device)
	var services []*appservice.Service
	for user, devices := range wanted {
		s := c.keyKeeper(user, kindKeys)
		if s == nil {
			continue
		}
		if byService[s] == nil {
			byService[s] = make(map[id.User][]id.Device)
			services = append(services, s)
		}
		byService[s][user] = append([]id.Device{}, devices...) // not null
	}
	told := make([]Keys, len(services))
	each(services, func(i int, s *appservice.Service) {
		c.askKeys(ctx, s, kindKeys, "/_matrix/app/unstable/org.matrix.msc3984/keys/query", byService[s], &told[i])
	})
	for i, s := range services {
		for user := range byService[s] {
			out.take(user, &told[i])
		}
	}
	return out
}

// take adds what is told of one user.
func (k *Keys) take(user id.User, told *Keys) {
	for device, raw := range told.Devices[user] {
		var is struct {
			User   id.User   `json:"user_id"`
			Device id.Device `json:"device_id"`
		}
		if json.Unmarshal(raw, &is) != nil || is.User != user || is.Device != device {
			continue
		}
		if k.Devices[user] == nil {
			k.Devices[user] = make(map[id.Device]json.RawMessage)
		}
		k.Devices[user][device] = raw
	}
	for _, m := range []struct{ from, to map[id.User]json.RawMessage }{
		{told.Master, k.Master}, {told.SelfSigning, k.SelfSigning}, {told.UserSigning, k.UserSigning},
	} {
		var is struct {
			User id.User `json:"user_id"`
		}
		if raw := m.from[user]; isObject(raw) && json.Unmarshal(raw, &is) == nil && is.User == user {
			m.to[user] = raw
		}
	}
}
