package partition

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonv1 "hanse/proto/common/v1"
)

// NotOwner is what a worker answers that was asked about a partition that it does not own. It
// crosses gRPC as a status detail; Router follows it.
type NotOwner struct {
	Part uint32
	// Worker and Addr say who is thought to own it; empty if nobody knows.
	Worker, Addr string
}

// Error implements error.
func (e *NotOwner) Error() string {
	return fmt.Sprintf("partition %d: owner is elsewhere (%q at %q)", e.Part, e.Worker, e.Addr)
}

// GRPCStatus makes the error travel: FAILED_PRECONDITION with a common.v1.NotOwner detail.
func (e *NotOwner) GRPCStatus() *status.Status {
	s := status.New(codes.FailedPrecondition, e.Error())
	if d, err := s.WithDetails(&commonv1.NotOwner{Part: e.Part, Worker: e.Worker, Addr: e.Addr}); err == nil {
		return d
	}
	return s
}

// AsNotOwner finds a NotOwner in err, whether it was made here or came over gRPC.
func AsNotOwner(err error) (*NotOwner, bool) {
	var e *NotOwner
	if errors.As(err, &e) {
		return e, true
	}
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.FailedPrecondition {
		return nil, false
	}
	for _, d := range s.Details() {
		if d, ok := d.(*commonv1.NotOwner); ok {
			return &NotOwner{Part: d.Part, Worker: d.Worker, Addr: d.Addr}, true
		}
	}
	return nil, false
}
