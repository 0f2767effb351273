package keys

import (
	"context"
	"encoding/json"
	"fmt"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/core"
)

// tellDevices notes in the logs of a user's rooms that a device, or the cross-signing keys, changed: one call for each
// partition. Our own users hear of it by /sync, other servers by fedout, which follows the log.
func (c *Keys) tellDevices(ctx context.Context, t userdb.Task) error {
	var change userdb.DeviceChange
	if err := json.Unmarshal(t.Payload, &change); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	rooms, err := c.Users.JoinedRooms(ctx, t.User)
	if err != nil {
		return err
	}
	byPart := make(map[uint32][]string)
	for _, r := range rooms {
		byPart[r.Part] = append(byPart[r.Part], string(r.Room))
	}
	var g errgroup.Group
	g.SetLimit(core.RoomsAtOnce)
	for part, ids := range byPart {
		g.Go(func() error {
			return roomowner.CallPart(ctx, c.Router, part, func(ctx context.Context, rc roomv1.RoomClient) error {
				_, err := rc.DeviceChanges(ctx, &roomv1.DeviceChangesRequest{
					Part: part, RoomIds: ids, UserId: string(t.User), StreamId: change.StreamID, DeviceId: string(change.Device), Local: true,
				})
				return err
			})
		})
	}
	return g.Wait()
}
