package grpcx

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/merr"
	"hanse/pkg/pg"
	commonv1 "hanse/proto/common/v1"
)

// toStatus maps a handler's error to what travels. internal is true for errors that have no meaning
// to the caller: they are logged on this side.
func toStatus(err error) (out error, internal bool) {
	if err == nil {
		return nil, false
	}
	if e, ok := merr.As(err); ok {
		return matrixStatus(e), e.Status >= http.StatusInternalServerError
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error()), false
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error()), false
	}
	var own interface{ GRPCStatus() *status.Status }
	if errors.As(err, &own) {
		return own.GRPCStatus().Err(), false
	}
	if pg.Unstorable(err) {
		return matrixStatus(merr.InvalidParam("The request contains characters that are not allowed, or an identifier that is too long")), true
	}
	if pg.Transient(err) && !pg.Ambiguous(err) {
		// A connection that broke under a read, a database that restarts: routers try again.
		return status.Error(codes.Aborted, err.Error()), true
	}
	return status.Error(codes.Unknown, err.Error()), true
}

func matrixStatus(e *merr.Error) error {
	d := &commonv1.MatrixError{
		HttpStatus: int32(e.Status), Errcode: e.Code, Message: e.Msg, RetryAfterMs: e.RetryAfterMS,
	}
	if len(e.Extra) > 0 {
		// What JSON cannot express could not have been sent to a client either.
		d.Extra, _ = json.Marshal(e.Extra)
	}
	s := status.New(codeOf(e.Status), e.Error())
	if with, err := s.WithDetails(d); err == nil {
		s = with
	}
	return s.Err()
}

// codeOf picks the gRPC code for an HTTP status. 503 becomes Unavailable, which routers retry.
func codeOf(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.NotFound
	case http.StatusConflict:
		return codes.AlreadyExists
	case http.StatusTooManyRequests:
		return codes.ResourceExhausted
	case http.StatusServiceUnavailable:
		return codes.Unavailable
	case http.StatusGatewayTimeout:
		return codes.DeadlineExceeded
	}
	if httpStatus >= 400 && httpStatus < 500 {
		return codes.InvalidArgument
	}
	return codes.Unknown
}

// fromStatus restores the Matrix error that a status carries; its cause is the status. Expired
// deadlines and cancellations match the errors of package context.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range s.Details() {
		if d, ok := d.(*commonv1.MatrixError); ok {
			e := merr.New(int(d.HttpStatus), d.Errcode, d.Message)
			e.RetryAfterMS = d.RetryAfterMs
			if len(d.Extra) > 0 {
				if jsonErr := json.Unmarshal(d.Extra, &e.Extra); jsonErr != nil {
					return errors.Join(err, jsonErr)
				}
			}
			return e.WithCause(err)
		}
	}
	switch s.Code() {
	case codes.DeadlineExceeded:
		return &contextError{err, context.DeadlineExceeded}
	case codes.Canceled:
		return &contextError{err, context.Canceled}
	}
	return err
}

// contextError is a status that is also the context's error.
type contextError struct{ status, ctx error }

func (e *contextError) Error() string   { return e.status.Error() }
func (e *contextError) Unwrap() []error { return []error{e.status, e.ctx} }
