// Package userdb reads and writes what lies in the partitions of users: accounts, profiles, devices, account data,
// to-device messages, filters, encryption keys, backups, pushers, and the membership index (which it only reads: the
// owner of a room writes it).
//
// # Model
//
// Any worker may write for any user. What the user's clients must learn by /sync gets a position of the user's own
// stream: Change raises user_stream.seq first, and the row lock orders all writers of that user, so that a reader who
// saw seq n has seen everything up to n. After the commit the new position is announced on the bus.
//
// # Invariants
//
//   - A row that carries a seq was written in the transaction that raised the stream to that seq.
//   - Statements that touch several users raise their streams in the order of (part, user_id): no deadlocks.
//   - A device's keys, messages, tokens and pushers go with the device, in one transaction.
//
// # Failures
//
// An announcement that is lost costs only time: readers look at PostgreSQL anyway. A task (user_task) is what a
// request promised and could not finish in its own transaction; it survives the worker.
package userdb
