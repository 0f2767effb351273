package httpx

import (
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/merr"
)

// Client-server API, "Standard error response": 503 while what is needed is away, so that clients try again.
func TestOutage(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for what, tc := range map[string]struct {
		err  error
		want int
	}{
		"connection refused": {fmt.Errorf("read: %w", refused), 503},
		"broke":              {fmt.Errorf("read: %w", io.ErrUnexpectedEOF), 503},
		"shutting down":      {&pgconn.PgError{Code: "57P01"}, 503},
		"another worker":     {status.Error(codes.Aborted, "no connection"), 503},
		"no worker":          {fmt.Errorf("call: %w", status.Error(codes.Unavailable, "gone")), 503},
		"too late":           {fmt.Errorf("read: %w", context.DeadlineExceeded), 504},
		"a mistake":          {&pgconn.PgError{Code: "42601"}, 500},
		"said by Matrix":     {merr.NotFound("no").WithCause(refused), 404},
	} {
		if e := errorOf(tc.err); e.Status != tc.want {
			t.Errorf("%s: %v", what, e)
		}
	}
}
