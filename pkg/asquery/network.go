package asquery

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/matrix/id"
)

const (
	// protocolAge is how long the descriptions of protocols are remembered.
	protocolAge = time.Hour
	// maxMatches bounds the answer of a service that is asked for users or locations, in bytes.
	maxMatches = 1 << 20
)

// protocolKey is a protocol of a service, as it is registered now.
type protocolKey struct {
	service *appservice.Service
	name    string
}

// with returns the services of a server name that know a protocol; "" is any.
func (c *Client) with(server id.Server, protocol string) []*appservice.Service {
	var out []*appservice.Service
	for _, s := range c.apps.All() {
		if s.Server == server && s.URL != "" && len(s.Protocols) > 0 && (protocol == "" || slices.Contains(s.Protocols, protocol)) {
			out = append(out, s)
		}
	}
	return out
}

// Protocols returns what the services of a server name tell of their networks, by name (client-server API, "Third-party Networks").
func (c *Client) Protocols(ctx context.Context, server id.Server) map[string]json.RawMessage {
	if c == nil {
		return nil
	}
	var keys []protocolKey
	for _, s := range c.with(server, "") {
		for _, name := range s.Protocols {
			keys = append(keys, protocolKey{s, name})
		}
	}
	return c.describe(ctx, keys)
}

// Protocol returns what the services of a server name tell of one network; nil if there is none.
func (c *Client) Protocol(ctx context.Context, server id.Server, name string) json.RawMessage {
	if c == nil {
		return nil
	}
	var keys []protocolKey
	for _, s := range c.with(server, name) {
		keys = append(keys, protocolKey{s, name})
	}
	return c.describe(ctx, keys)[name]
}

// describe asks for protocols. What several services tell of one is put together: the description of the first, and the instances
// of all.
func (c *Client) describe(ctx context.Context, keys []protocolKey) map[string]json.RawMessage {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	services := make([]*appservice.Service, len(keys))
	for i, k := range keys {
		services[i] = k.service
	}
	told := make([]json.RawMessage, len(keys))
	each(services, func(i int, _ *appservice.Service) { told[i] = c.protocol(ctx, keys[i]) })
	out := make(map[string]json.RawMessage)
	for i, k := range keys {
		switch {
		case told[i] == nil:
		case out[k.name] == nil:
			out[k.name] = told[i]
		default:
			out[k.name] = withInstances(out[k.name], told[i])
		}
	}
	return out
}

// protocol returns what a service tells of a protocol; nil if it does not.
func (c *Client) protocol(ctx context.Context, k protocolKey) json.RawMessage {
	if known, ok := c.protocols.Get(k); ok {
		return known
	}
	if !c.answers(k.service) {
		return nil
	}
	ch := c.flight.DoChan("protocol "+k.service.ID+" "+k.name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
		defer cancel()
		a, err := c.ask(ctx, k.service, kindProtocol, asclient.Request{Method: http.MethodGet, Path: "/_matrix/app/v1/thirdparty/protocol/" + url.PathEscape(k.name)})
		if err != nil || !a.OK() {
			return json.RawMessage(nil), nil
		}
		info := withInstanceIDs(a.Body, k.service.ID)
		if info != nil {
			c.protocols.Add(k, info)
		}
		return info, nil
	})
	select {
	case res := <-ch:
		return res.Val.(json.RawMessage)
	case <-ctx.Done():
		return nil
	}
}

// withInstanceIDs adds the instance_id to each instance of a network: what clients ask the room directory by. It returns nil if the
// description is not one.
func withInstanceIDs(info []byte, service string) json.RawMessage {
	var all map[string]json.RawMessage
	var instances []map[string]json.RawMessage
	if json.Unmarshal(info, &all) != nil || all == nil || json.Unmarshal(all["instances"], &instances) != nil {
		return nil
	}
	for _, one := range instances {
		var network string
		if one == nil || json.Unmarshal(one["network_id"], &network) != nil {
			continue
		}
		one["instance_id"] = marshalled(InstanceID(service, network))
	}
	all["instances"] = marshalled(instances)
	return marshalled(all)
}

// withInstances adds the instances of another description.
func withInstances(info, other json.RawMessage) json.RawMessage {
	var all, more map[string]json.RawMessage
	var instances, further []json.RawMessage
	if json.Unmarshal(info, &all) != nil || json.Unmarshal(other, &more) != nil ||
		json.Unmarshal(all["instances"], &instances) != nil || json.Unmarshal(more["instances"], &further) != nil {
		return info
	}
	all["instances"] = marshalled(append(instances, further...))
	return marshalled(all)
}

// marshalled marshals what was just read, or a text.
func marshalled(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // raw members that were valid
	}
	return raw
}

// InstanceID names a network of a service, as Synapse does.
func InstanceID(service, network string) string { return service + "|" + network }

// ParseInstanceID returns the service of a server name that an instance id names, and its network.
func (c *Client) ParseInstanceID(server id.Server, text string) (service, network string, ok bool) {
	if c == nil {
		return "", "", false
	}
	for _, s := range c.apps.All() {
		if rest, is := strings.CutPrefix(text, s.ID+"|"); is && s.Server == server && len(s.ID) >= len(service) {
			service, network, ok = s.ID, rest, true
		}
	}
	return service, network, ok
}

// Users asks the services of a server name for users on a third-party network with some fields; without a protocol, for those that a
// Matrix user (userid) stands for.
func (c *Client) Users(ctx context.Context, server id.Server, protocol string, fields url.Values) []json.RawMessage {
	return c.matches(ctx, server, "user", "userid", protocol, fields)
}

// Locations asks for locations on a third-party network with some fields; without a protocol, for those that an alias leads to.
func (c *Client) Locations(ctx context.Context, server id.Server, protocol string, fields url.Values) []json.RawMessage {
	return c.matches(ctx, server, "location", "alias", protocol, fields)
}

func (c *Client) matches(ctx context.Context, server id.Server, what, needs, protocol string, fields url.Values) []json.RawMessage {
	out := []json.RawMessage{}
	if c == nil {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	path := "/_matrix/app/v1/thirdparty/" + what
	if protocol != "" {
		path += "/" + url.PathEscape(protocol)
	}
	services := slices.DeleteFunc(c.with(server, protocol), func(s *appservice.Service) bool { return !c.answers(s) })
	found := make([][]json.RawMessage, len(services))
	each(services, func(i int, s *appservice.Service) {
		a, err := c.ask(ctx, s, kindNetwork, asclient.Request{Method: http.MethodGet, Path: path, Query: fields, Timeout: lookTime, MaxAnswer: maxMatches})
		if err == nil && a.OK() {
			found[i] = validMatches(a.Body, needs)
		}
	})
	return append(out, slices.Concat(found...)...)
}

// validMatches returns the entries of an answer that have the members that they must have.
func validMatches(answer []byte, needs string) []json.RawMessage {
	var all []json.RawMessage
	if json.Unmarshal(answer, &all) != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(raw json.RawMessage) bool {
		var one map[string]json.RawMessage
		var text string
		var fields map[string]json.RawMessage
		return json.Unmarshal(raw, &one) != nil || json.Unmarshal(one[needs], &text) != nil || json.Unmarshal(one["protocol"], &text) != nil ||
			json.Unmarshal(one["fields"], &fields) != nil || fields == nil
	})
}
