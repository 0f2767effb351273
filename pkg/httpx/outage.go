package httpx

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/merr"
	"hanse/pkg/pg"
)

// errorOf is the Matrix error that a request is answered with. While PostgreSQL or another worker is away it is 503,
// which tells clients, other servers and proxies to try again later.
func errorOf(err error) *merr.Error {
	if _, ok := merr.As(err); !ok && outage(err) {
		return merr.Unavailable("The server cannot answer now, try again later").WithCause(err)
	}
	return merr.From(err)
}

func outage(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Aborted:
		return true
	}
	if pg.Unreachable(err) {
		return true
	}
	return pg.Transient(err) && !errors.Is(err, context.DeadlineExceeded) // the time of the request ran out: 504
}
