package room

import (
	"context"
	"errors"
	"iter"

	"google.golang.org/grpc/status"

	"hanse/pkg/matrix/id"
	federationv1 "hanse/proto/federation/v1"
)

// A request that a user waits for is made even to a server that backs off, which may be up again. If there are several servers,
// those that back off are asked after the others.

// attempt is a request to one server that a user waits for.
type attempt struct {
	// always says that the server is asked even while it backs off.
	always bool
	// untried says that it was not asked, as it backs off.
	untried bool
}

type attemptKey struct{}

// forUser returns a context for a request that a user waits for.
func forUser(ctx context.Context) context.Context {
	return context.WithValue(ctx, attemptKey{}, &attempt{always: true})
}

// sentBy returns a context for requests to a server that has just sent events: it is up, although we may not have reached it
// lately.
func sentBy(ctx context.Context) context.Context { return forUser(ctx) }

// unlessAway returns a context for a request that is not made to a server that backs off.
func unlessAway(ctx context.Context) context.Context {
	return context.WithValue(ctx, attemptKey{}, new(attempt))
}

// inTurn yields servers, with a context each to ask them for what a user waits for. Those that were not asked because
// they back off come once more.
func inTurn(ctx context.Context, servers []id.Server) iter.Seq2[context.Context, id.Server] {
	return func(yield func(context.Context, id.Server) bool) {
		var later []id.Server
		for _, server := range servers {
			a := new(attempt)
			if !yield(context.WithValue(ctx, attemptKey{}, a), server) {
				return
			}
			if a.untried {
				later = append(later, server)
			}
		}
		for _, server := range later {
			if !yield(forUser(ctx), server) {
				return
			}
		}
	}
}

// attemptOf returns the attempt of the context; an empty one if no user waits.
func attemptOf(ctx context.Context) *attempt {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a
	}
	return new(attempt)
}

// failed notes why a request was not answered.
func (a *attempt) failed(err error) {
	var grpc interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &grpc) {
		return
	}
	for _, detail := range grpc.GRPCStatus().Details() {
		if u, ok := detail.(*federationv1.Unreachable); ok && u.Untried {
			a.untried = true
		}
	}
}
