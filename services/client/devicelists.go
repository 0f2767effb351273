package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
)

// tellDevices tells those who share rooms with a user that a device, or the cross-signing keys, changed: our own users
// by the logs of the rooms, one call for each partition, other servers by EDUs that wait for them.
func (c *Client) tellDevices(ctx context.Context, t userdb.Task) error {
	var change userdb.DeviceChange
	if err := json.Unmarshal(t.Payload, &change); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	rooms, err := c.users.JoinedRooms(ctx, t.User)
	if err != nil {
		return err
	}
	byPart := make(map[uint32][]string)
	for _, r := range rooms {
		byPart[r.Part] = append(byPart[r.Part], string(r.Room))
	}
	var g errgroup.Group
	g.SetLimit(roomsAtOnce)
	for part, ids := range byPart {
		g.Go(func() error {
			return c.room(ctx, part, func(ctx context.Context, rc roomv1.RoomClient) error {
				_, err := rc.DeviceChanges(ctx, &roomv1.DeviceChangesRequest{
					Part: part, RoomIds: ids, UserId: string(t.User), StreamId: change.StreamID, DeviceId: string(change.Device), Local: true,
				})
				return err
			})
		})
	}
	return errors.Join(g.Wait(), c.tellServers(ctx, t.User, change, rooms))
}

// tellServers queues what other servers must learn (server-server API, "Device Management"). A repetition has the same
// stream_id: receivers know it.
func (c *Client) tellServers(ctx context.Context, user id.User, change userdb.DeviceChange, rooms []userdb.JoinedRoom) error {
	servers, err := c.serversOf(ctx, rooms)
	if err != nil || len(servers) == 0 {
		return err
	}
	eduType, content, err := c.deviceEDU(ctx, user, change)
	if err != nil || content == nil {
		return err
	}
	key := eduType + "/" + string(user) + "/" + string(change.Device)
	return c.users.QueueEDUs(ctx, user.Server(), servers, eduType, key, content)
}

// serversOf returns the other servers in any of the rooms.
func (c *Client) serversOf(ctx context.Context, rooms []userdb.JoinedRoom) ([]id.Server, error) {
	var mu sync.Mutex
	found := make(map[id.Server]struct{})
	var g errgroup.Group
	g.SetLimit(roomsAtOnce)
	for _, r := range rooms {
		g.Go(func() error {
			servers, err := c.rooms.Servers(ctx, r.Part, r.NID)
			mu.Lock()
			defer mu.Unlock()
			for _, s := range servers {
				if !c.servers.IsLocal(s) {
					found[s] = struct{}{}
				}
			}
			return err
		})
	}
	err := g.Wait()
	return slices.Sorted(maps.Keys(found)), err
}

// deviceEDU makes m.device_list_update of a device as it is now, or m.signing_key_update; nil if there is nothing to
// tell.
func (c *Client) deviceEDU(ctx context.Context, user id.User, change userdb.DeviceChange) (eduType string, content []byte, err error) {
	found, err := c.users.KeysOf(ctx, []id.User{user}, "")
	if err != nil {
		return "", nil, err
	}
	keys := found[user]
	if keys == nil {
		keys = &userdb.UserKeys{}
	}
	if change.Device == "" {
		master := keys.CrossSigning[userdb.MasterKey]
		if master == nil {
			return "", nil, nil
		}
		edu := map[string]any{"user_id": user, "master_key": master}
		if self := keys.CrossSigning[userdb.SelfSigningKey]; self != nil {
			edu["self_signing_key"] = self
		}
		content, err = json.Marshal(edu)
		return "m.signing_key_update", content, err
	}
	edu := map[string]any{"user_id": user, "device_id": change.Device, "stream_id": change.StreamID, "prev_id": []int64{}}
	if change.Prev > 0 {
		edu["prev_id"] = []int64{change.Prev}
	}
	if k := keys.Devices[change.Device]; k != nil {
		edu["keys"] = k
	} else if _, err := c.users.Device(ctx, user, change.Device); errors.Is(err, userdb.ErrNotFound) {
		edu["deleted"] = true
	} else if err != nil {
		return "", nil, err
	}
	content, err = json.Marshal(edu)
	return "m.device_list_update", content, err
}
