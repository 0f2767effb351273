package keys

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/services/client/core"
)

type claimAnswer struct {
	mu       sync.Mutex
	Failures map[id.Server]any                                    `json:"failures"`
	Keys     map[id.User]map[id.Device]map[string]json.RawMessage `json:"one_time_keys"`
}

// claimKeys answers POST /keys/claim (client-server API, "Key management API").
func (c *Keys) claimKeys(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		TimeoutMS *int64                           `json:"timeout"`
		Keys      *map[string]map[id.Device]string `json:"one_time_keys"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Keys == nil {
		return merr.MissingParam("one_time_keys")
	}
	if len(*q.Keys) > maxKeyUsers {
		return merr.InvalidParam("Too many users")
	}
	local := make(map[id.User]map[id.Device]string)
	remote := make(map[id.Server]map[id.User]map[id.Device]string)
	for text, devices := range *q.Keys {
		u, err := id.ParseUser(text)
		if err != nil {
			return merr.InvalidParam("Not a user ID: " + text)
		}
		if c.IsLocal(u) {
			local[u] = devices
			continue
		}
		if remote[u.Server()] == nil {
			remote[u.Server()] = make(map[id.User]map[id.Device]string)
		}
		remote[u.Server()][u] = devices
	}
	a := &claimAnswer{Failures: map[id.Server]any{}, Keys: map[id.User]map[id.Device]map[string]json.RawMessage{}}
	g, ctx := errgroup.WithContext(r.Context())
	g.SetLimit(serversAtOnce)
	for u, devices := range local {
		g.Go(func() error { return c.claimLocal(ctx, a, u, devices) })
	}
	origin, timeout := core.Me(r).User.Server(), boundedTimeout(q.TimeoutMS)
	for server, users := range remote {
		g.Go(func() error {
			c.claimRemote(ctx, a, origin, server, users, timeout)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return httpx.OK(w, a)
}

func (c *Keys) claimLocal(ctx context.Context, a *claimAnswer, u id.User, devices map[id.Device]string) error {
	claimed, err := c.Queries.Claim(ctx, c.Users, u, devices)
	if err != nil || len(claimed) == 0 {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Keys[u] = claimed
	return nil
}

func (c *Keys) claimRemote(ctx context.Context, a *claimAnswer, origin, server id.Server, users map[id.User]map[id.Device]string, timeout time.Duration) {
	var answer struct {
		Keys map[id.User]map[id.Device]map[string]json.RawMessage `json:"one_time_keys"`
	}
	err := c.FederateSparing(ctx, origin, server, http.MethodPost, "/_matrix/federation/v1/user/keys/claim",
		map[string]any{"one_time_keys": users}, &answer, timeout)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		e := merr.From(err)
		a.Failures[server] = map[string]any{"status": e.Status, "message": e.Msg}
		return
	}
	for u, wanted := range users {
		for dev, keys := range answer.Keys[u] {
			if _, ok := wanted[dev]; !ok {
				continue
			}
			if a.Keys[u] == nil {
				a.Keys[u] = make(map[id.Device]map[string]json.RawMessage)
			}
			a.Keys[u][dev] = keys
		}
	}
}
