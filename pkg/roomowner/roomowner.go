// Package roomowner calls the worker that owns a room. Roles that change rooms share it: they import no code of each other.
package roomowner

import (
	"context"

	"google.golang.org/grpc"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// Router calls the owner of a partition (partition.Router).
type Router interface {
	Call(ctx context.Context, part uint32, fn func(ctx context.Context, conn grpc.ClientConnInterface) error) error
}

// Call calls fn with the owner of a room, again if the owner has changed or the outcome is unknown: see partition.Router.
func Call(ctx context.Context, r Router, room id.Room, fn func(context.Context, roomv1.RoomClient) error) error {
	return CallPart(ctx, r, partition.Of(string(room)), fn)
}

// CallPart is Call for the owner of a partition.
func CallPart(ctx context.Context, r Router, part uint32, fn func(context.Context, roomv1.RoomClient) error) error {
	return r.Call(ctx, part, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return fn(ctx, roomv1.NewRoomClient(conn))
	})
}
