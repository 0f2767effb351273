// Package bus carries what has been committed from the workers that wrote it to those that wait for
// it. It is NATS: core subjects for the room logs and the hints, a JetStream key-value bucket for
// the membership of the cluster (pkg/partition).
//
// # Model
//
// The bus is fast and forgetful; PostgreSQL is the truth (law 2). A publication may be lost, come
// twice, or come late, and the whole NATS server may be wiped while everything runs. Nothing here
// is acknowledged to anybody: who publishes has committed before, who reads can find out from
// PostgreSQL what was lost.
//
// # The log reader
//
// LogReader turns the lossy subject hanse.room.<part> into the log: each entry of a partition once,
// in order, without gaps (law 4). Positions are dense, so a gap shows itself by the next message,
// by a beacon (a batch without entries that names the head), by the reconnection to NATS, or at the
// latest by the regular comparison with the heads in PostgreSQL. Gaps are read from the LogSource.
//
// That comparison is one query for each shard, every few seconds. While NATS is away, and for a minute
// after it has lost something, it is made every 250 ms while entries are written and every second while
// none are: readers are late by that and no more (heads.go).
//
// # Failures
//
//   - NATS down or wiped: the connection is retried for ever; meanwhile the heads are polled; after it
//     is back every partition reads from PostgreSQL what it may have missed.
//   - PostgreSQL down: the partition's reader waits and retries; messages beyond the bound of the
//     queue are dropped and read later.
//   - A handler that is slow: only its own partition of its own reader waits; beyond the bound the
//     queue drops, and the reader catches up from PostgreSQL.
//   - A handler that fails: retried for ever, with backoff; it never skips. Only an entry that the
//     handler calls unprocessable (Unprocessable), or on which it panics, goes to the dead-letter
//     hook.
//   - An entry that this program cannot read, as a newer one wrote it, say in a rolling upgrade: it
//     goes to the dead-letter hook as well, whether it came over the bus or from PostgreSQL.
package bus
