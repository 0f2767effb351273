// Package retries logs attempts that are repeated until they succeed. While PostgreSQL or NATS is away each of them fails every few
// seconds in each worker: the log says once that they fail, and once that they succeed again.
package retries

import (
	"log/slog"
	"sync"
	"time"
)

// Log logs the outages of one kind of attempt. It is safe for concurrent use.
type Log struct {
	// To is where it logs.
	To *slog.Logger
	// What is the message, which names the attempt.
	What string

	mu     sync.Mutex
	failed int       // attempts since the last one that succeeded
	since  time.Time // of the first of them
}

// Note takes the outcome of an attempt. An error that begins an outage is logged as a warning with the arguments, a success that
// ends one with the number of attempts that have failed.
func (l *Log) Note(err error, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		if l.failed++; l.failed == 1 {
			l.since = time.Now()
			l.To.Warn(l.What+" failed, and is tried again", append(args, "err", err)...)
		}
	case l.failed > 0:
		l.To.Info(l.What+" succeeds again", "failed", l.failed, "after", time.Since(l.since).Round(time.Millisecond).String())
		l.failed = 0
	}
}
