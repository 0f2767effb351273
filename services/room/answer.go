package room

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// A write passes the fence, what is answered without one does not: a worker that has lost a partition and does not know
// it yet would judge by a room that has changed elsewhere. It would refuse somebody who has just joined, or say "you
// are in the room already" to somebody who has just been kicked. So an answer without a write is given only when all
// that it rests on is committed, and after a look at the partition's row; one that does not hold makes the caller ask
// the new owner.

// Register puts the role's RPCs on a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	desc := roomv1.Room_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		desc.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, next grpc.UnaryServerInterceptor) (any, error) {
			return m.Handler(srv, ctx, dec, s.answers(next))
		}
	}
	r.RegisterService(&desc, s)
}

// basis is what the answer to a request rests on.
type basis struct {
	room    atomic.Pointer[room] // the last one that the request looked at
	written atomic.Bool          // something that the request wrote has passed the fence
}

type basisKey struct{}

// basisOf returns the basis of the request under way, nil for work that answers nobody.
func basisOf(ctx context.Context) *basis {
	b, _ := ctx.Value(basisKey{}).(*basis)
	return b
}

// answers lets next, which may be nil, give answers only that hold.
func (s *Service) answers(next grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		checked := func(ctx context.Context, req any) (any, error) {
			part, ok := s.partOf(req)
			if !ok {
				return handler(ctx, req)
			}
			before, on := s.leases[part].Load(), new(basis)
			resp, err := handler(context.WithValue(ctx, basisKey{}, on), req)
			if err == nil && on.written.Load() || final(ctx, err) {
				return resp, err
			}
			if gone := s.holds(ctx, part, before, on); gone != nil {
				return nil, gone
			}
			return resp, err
		}
		if next == nil {
			return checked(ctx, req)
		}
		return next(ctx, req, info, checked)
	}
}

// partOf is the partition that a request is about; ok is false if there is none.
func (s *Service) partOf(req any) (part uint32, ok bool) {
	switch about := req.(type) {
	case interface{ GetRoomId() string }:
		if _, err := id.ParseRoom(about.GetRoomId()); err != nil {
			return 0, false
		}
		part = partition.Of(about.GetRoomId())
	case interface{ GetPart() uint32 }:
		part = about.GetPart()
	default:
		return 0, false
	}
	return part, part < uint32(len(s.leases))
}

// final says whether an error is no judgement of a room: it sends the caller elsewhere, or nobody waits for it.
func final(ctx context.Context, err error) bool {
	_, elsewhere := asNotOwner(err)
	return elsewhere || errors.Is(err, errUnavailable) || ctx.Err() != nil
}

// holds returns nil if an answer may be given, or what sends the caller elsewhere if the lease on which it was judged is
// over. before is the lease at its begin.
func (s *Service) holds(ctx context.Context, part uint32, before *lease, on *basis) error {
	if err := on.waitCommitted(ctx); err != nil {
		return err
	}
	p := s.leases[part].Load()
	switch {
	case p == nil && before == nil:
		return nil // no room was looked at
	case p == nil || p != before:
		return errUnavailable
	}
	var epoch int64
	err := s.shards.For(part).QueryRow(ctx, `SELECT epoch FROM partition WHERE part = $1`, int32(part)).Scan(&epoch)
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "an answer could not be checked", "part", part, "err", err)
		return errUnavailable
	case epoch != p.epoch:
		s.lose(p, errFenced)
		return p.lostError()
	}
	return nil
}

// waitCommitted waits until what the room showed is committed. What others had queued may have come to nothing: then the request
// has to be judged again.
func (b *basis) waitCommitted(ctx context.Context) error {
	r := b.room.Load()
	if r == nil {
		return nil
	}
	last := r.last.Load()
	if last == nil || last.basis == b {
		return nil
	}
	if err := last.wait(ctx); err != nil {
		if r.p.lost.Load() {
			return r.p.lostError()
		}
		return errUnavailable
	}
	return nil
}
