package pg

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CommitError is an error that arose while a transaction was being committed: by InTx, or by a caller who sends
// BEGIN to COMMIT in one batch and wraps what it returns.
type CommitError struct{ Err error }

func (e *CommitError) Error() string { return "commit: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *CommitError) Unwrap() error { return e.Err }

// Ambiguous reports whether the transaction that failed with err may have been committed all the same. Whoever must
// know has to read it back.
func Ambiguous(err error) bool {
	var commit *CommitError
	if !errors.As(err, &commit) {
		return false
	}
	if errors.Is(commit.Err, pgx.ErrTxCommitRollback) || errors.Is(commit.Err, pgx.ErrTxClosed) ||
		pgconn.SafeToRetry(commit.Err) {
		return false
	}
	var pe *pgconn.PgError
	if errors.As(commit.Err, &pe) {
		// The server says no, unless it says that it is going away or is confused.
		return strings.HasPrefix(pe.Code, "08") || strings.HasPrefix(pe.Code, "57P") || strings.HasPrefix(pe.Code, "XX")
	}
	return true
}

// readOnly is the error of a write on a server that only reads: it was the primary, and another one is now.
const readOnly = "25006"

// Transient reports whether the same work may succeed when it is tried again later: the database restarts, the
// network broke, two transactions were in each other's way. It says nothing about whether the first try left
// something behind; see Ambiguous.
func Transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch {
		case strings.HasPrefix(pe.Code, "08"), // connection exception
			strings.HasPrefix(pe.Code, "40"),                                               // serialization failure, deadlock
			strings.HasPrefix(pe.Code, "53"),                                               // out of connections, memory, disk
			pe.Code == "55P03",                                                             // lock not available
			pe.Code == "57P01", pe.Code == "57P02", pe.Code == "57P03", pe.Code == "57P05", // shutdown, crash, starting, idle
			pe.Code == "25P03",  // idle in transaction for too long
			pe.Code == readOnly: // after a failover
			return true
		}
		return false
	}
	var ne net.Error
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || errors.As(err, &ne) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, pgx.ErrTxClosed)
}

// Unreachable reports whether err says that no connection to the database could be made.
func Unreachable(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect)
}

// IsUnique reports whether err is a violation of the named unique constraint or index; "" means any.
func IsUnique(err error, constraint string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "23505" && (constraint == "" || pe.ConstraintName == constraint)
}

// Unstorable reports whether PostgreSQL refused a value for what it is: text with a zero byte or that is not UTF-8, or
// too long for an index. The sender made the mistake, and will make it again.
func Unstorable(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (pe.Code == "22021" || pe.Code == "22P05" || pe.Code == "54000")
}

// IsFenced reports whether err is what hanse_fence raises: the writer's epoch is not that of the row any more.
func IsFenced(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "HF001"
}

// IsNoRows reports whether a query for one row found none.
func IsNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
