package bus

import (
	"context"
	"errors"

	logv1 "hanse/proto/log/v1"
)

// LogSource reads a partition's log from PostgreSQL.
type LogSource interface {
	// ReadLog returns the entries of part with pos >= from in order, at most limit. All that was
	// committed before the call is seen. Fewer than limit means that there were no more. A position
	// below the last one returned that is missing does not exist (it was purged). An entry that cannot
	// be read by this program has no body: it goes to the dead letters.
	ReadLog(ctx context.Context, part uint32, from int64, limit int) ([]*logv1.Entry, error)
}

// Delivery is a run of consecutive entries of one partition.
type Delivery struct {
	Part    uint32
	Entries []*logv1.Entry
	// CommittedUS is when the append's commit returned, microseconds since 1970; 0 for entries that
	// were read from PostgreSQL.
	CommittedUS int64
	// Live is false for entries that were read from PostgreSQL.
	Live bool
}

// Unprocessable marks an error of a handler as one that no retry will cure: the entry is bad. With
// a dead-letter hook the entry goes there and the reader continues; without one it is retried like
// any other.
func Unprocessable(err error) error {
	if err == nil {
		return nil
	}
	return &unprocessable{err}
}

type unprocessable struct{ err error }

func (u *unprocessable) Error() string { return "unprocessable: " + u.err.Error() }
func (u *unprocessable) Unwrap() error { return u.err }

func isUnprocessable(err error) bool {
	var u *unprocessable
	return errors.As(err, &u)
}
