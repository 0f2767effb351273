package node

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/partition"
	fedv1 "hanse/proto/federation/v1"
)

// RoleFedout is the only role with a way out to other servers.
const RoleFedout = "fedout"

// FedOut returns the client by which other roles ask a fedout worker. The requests to one server go to the same
// worker as long as that is there, so that it can reuse its connections; without that worker another one takes them.
func (n *Node) FedOut() fedv1.FedOutClient { return fedOut{n.Members, n.Conns} }

type fedOut struct {
	members *partition.Members
	conns   partition.Conns
}

// try calls fedout workers until one is there, the one that rendezvous hashing picks for the server first.
func (f fedOut) try(server string, call func(fedv1.FedOutClient) error) error {
	return try(f.members, f.conns, RoleFedout, partition.Of(server), func(c grpc.ClientConnInterface) error {
		return call(fedv1.NewFedOutClient(c))
	})
}

// Do implements fedv1.FedOutClient. The destination sees the request at most once: only one that no worker took is
// given to the next.
func (f fedOut) Do(ctx context.Context, in *fedv1.DoRequest, opts ...grpc.CallOption) (stream grpc.ServerStreamingClient[fedv1.DoResponse], err error) {
	err = f.try(in.GetDestination(), func(c fedv1.FedOutClient) error {
		stream, err = c.Do(ctx, in, opts...)
		return err
	})
	return stream, err
}

// Keys implements fedv1.FedOutClient.
func (f fedOut) Keys(ctx context.Context, in *fedv1.KeysRequest, opts ...grpc.CallOption) (resp *fedv1.KeysResponse, err error) {
	server := ""
	if q := in.GetQueries(); len(q) > 0 {
		server = q[0].GetServer()
	}
	err = f.try(server, func(c fedv1.FedOutClient) error {
		resp, err = c.Keys(ctx, in, opts...)
		return err
	})
	return resp, err
}

// try calls workers of a role until one is there, the one that rendezvous hashing picks for the partition first.
func try(members *partition.Members, conns partition.Conns, role string, part uint32, call func(grpc.ClientConnInterface) error) error {
	ready := slices.Clone(members.Of(role))
	if first, ok := members.OwnerOf(part, role); ok {
		i := slices.IndexFunc(ready, func(m partition.Member) bool { return m.ID == first.ID })
		if i > 0 {
			ready[0], ready[i] = ready[i], ready[0]
		}
	}
	err := status.Error(codes.Unavailable, "no "+role+" worker is ready")
	for _, m := range ready {
		conn, dialErr := conns.To(m.Addr)
		if dialErr != nil {
			err = errors.Join(err, dialErr)
			continue
		}
		if err = call(conn); status.Code(err) != codes.Unavailable {
			return err
		}
	}
	return err
}
