// Package userdb reads and writes the partitions of users: accounts, profiles, devices, account data, to-device messages,
// filters, encryption keys, backups, pushers, and the membership index (which it only reads: the owner of a room writes it).
//
// # Model
//
// Any worker may write for any user. A change that the user's clients must learn of by /sync gets a position of the user's own
// stream: Change raises user_stream.seq first, and that row lock orders all writers of the user, so that a reader who has seen
// seq n has seen everything up to n. After the commit the new position is announced on the bus.
//
// # Invariants
//
//   - A row that carries a seq was written in the transaction that raised the stream to that seq.
//   - Statements that change several users raise their streams in the order of (part, user_id): no deadlocks.
//   - A device's keys, messages, tokens and pushers are deleted with the device, in one transaction.
//
// # Failures
//
// A lost announcement costs only time: readers look at PostgreSQL anyway. A task (user_task) is work that a request promised and
// could not finish in its own transaction; it survives the worker.
package userdb
