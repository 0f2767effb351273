package node

import (
	"context"

	"google.golang.org/grpc"

	"hanse/pkg/partition"
	mediav1 "hanse/proto/media/v1"
)

// RoleMedia has the media.
const RoleMedia = "media"

// Media returns the client by which workers ask a media worker. Requests for one media go to the same worker as long as that
// is there, so that it fetches a media of another server once for all.
func (n *Node) Media() mediav1.MediaClient { return media{n.Members, n.Conns} }

type media struct {
	members *partition.Members
	conns   partition.Conns
}

// Fetch implements mediav1.MediaClient.
func (m media) Fetch(ctx context.Context, in *mediav1.FetchRequest, opts ...grpc.CallOption) (stream grpc.ServerStreamingClient[mediav1.Piece], err error) {
	err = m.try(in.Origin, in.MediaId, func(c mediav1.MediaClient) error {
		stream, err = c.Fetch(ctx, in, opts...)
		return err
	})
	return stream, err
}

// Serve implements mediav1.MediaClient.
func (m media) Serve(ctx context.Context, in *mediav1.ServeRequest, opts ...grpc.CallOption) (stream grpc.ServerStreamingClient[mediav1.Piece], err error) {
	err = m.try(in.Origin, in.MediaId, func(c mediav1.MediaClient) error {
		stream, err = c.Serve(ctx, in, opts...)
		return err
	})
	return stream, err
}

// Preview implements mediav1.MediaClient.
func (m media) Preview(ctx context.Context, in *mediav1.PreviewRequest, opts ...grpc.CallOption) (out *mediav1.PreviewResponse, err error) {
	err = m.tryPart(partition.Of(in.Url), func(c mediav1.MediaClient) error {
		out, err = c.Preview(ctx, in, opts...)
		return err
	})
	return out, err
}

// Erase implements mediav1.MediaClient.
func (m media) Erase(ctx context.Context, in *mediav1.EraseRequest, opts ...grpc.CallOption) (out *mediav1.EraseResponse, err error) {
	err = m.tryPart(partition.Of(in.UserId), func(c mediav1.MediaClient) error {
		out, err = c.Erase(ctx, in, opts...)
		return err
	})
	return out, err
}

func (m media) try(origin, id string, call func(mediav1.MediaClient) error) error {
	return m.tryPart(partition.Of(origin+"/"+id), call)
}

func (m media) tryPart(part uint32, call func(mediav1.MediaClient) error) error {
	return try(m.members, m.conns, RoleMedia, part, func(c grpc.ClientConnInterface) error {
		return call(mediav1.NewMediaClient(c))
	})
}
