package room

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// A write passes the fence, a refusal does not: a worker that has lost a partition and does not know it yet would
// judge by a room that has changed elsewhere, and refuse somebody who has just joined. So a refusal is given only after
// a look at the partition's row; one that does not hold makes the caller ask the new owner.

// Register puts the role's RPCs on a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	desc := roomv1.Room_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		desc.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, next grpc.UnaryServerInterceptor) (any, error) {
			return m.Handler(srv, ctx, dec, s.refusals(next))
		}
	}
	r.RegisterService(&desc, s)
}

// refusals lets next, which may be nil, have refusals only that hold.
func (s *Service) refusals(next grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		checked := func(ctx context.Context, req any) (any, error) {
			about, ok := req.(interface{ GetRoomId() string })
			if !ok {
				return handler(ctx, req)
			}
			part := partition.Of(about.GetRoomId())
			before := s.tenures[part].Load()
			resp, err := handler(ctx, req)
			if err != nil {
				err = s.refusal(ctx, about.GetRoomId(), before, err)
			}
			return resp, err
		}
		if next == nil {
			return checked(ctx, req)
		}
		return next(ctx, req, info, checked)
	}
}

// refusal returns why a request is refused, or what sends the caller elsewhere if the tenure on which it was judged is
// over. before is the tenure at its begin.
func (s *Service) refusal(ctx context.Context, room string, before *tenure, why error) error {
	if _, elsewhere := asNotOwner(why); elsewhere || errors.Is(why, errUnavailable) || ctx.Err() != nil {
		return why
	}
	if _, err := id.ParseRoom(room); err != nil {
		return why // it has no owner
	}
	p := s.tenures[partition.Of(room)].Load()
	switch {
	case p == nil && before == nil:
		return why // no room was looked at
	case p == nil || p != before:
		return errUnavailable
	}
	var epoch int64
	err := s.shards.For(p.part).QueryRow(ctx, `SELECT epoch FROM partition WHERE part = $1`, int32(p.part)).Scan(&epoch)
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "a refusal could not be checked", "part", p.part, "err", err)
		return errUnavailable
	case epoch != p.epoch:
		s.lose(p, errFenced)
		return p.lostError()
	}
	return why
}
