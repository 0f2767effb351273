// Package partition decides which worker does what: which partition a name belongs to, which workers
// there are, and which of them owns a partition.
//
// # Three layers (law 3)
//
//   - Hint: Members, the workers that say they are alive, in a NATS key-value bucket. Rendezvous
//     hashing over those that are ready makes all of them guess the same owner without talking.
//   - Controller: Owner, in each room worker, takes the partitions that the hint gives it and lets go
//     of those that somebody else took. Router, in every caller, finds the owner and follows it.
//   - Truth: the row of table partition, in the database of the partition's rooms. A takeover raises
//     its epoch; each append names its epoch and writes nothing if that has passed.
//
// # Invariants
//
// Epochs of a partition strictly increase. At most one lease is given out per epoch. A worker that
// was stopped, cut off or simply wrong about who is alive cannot write: only its hint was stale, the
// row is not. Nothing here is safe because of time; times only decide how soon things happen.
//
// # Hand-over
//
// The owner keeps serving a partition that the hint has given to another worker until that one has
// raised the epoch: there is no moment without an owner, and a new owner that never comes costs
// nothing. A worker that ends marks itself draining and waits for that; one that is killed is missed
// by the workers tethered to it (a TCP connection that breaks, and a refused one after it) or at the
// latest when its heartbeats have been missing for TTL.
//
// # Failures
//
//   - NATS down: the last view of the members stays. A member counts as dead only if its heartbeats
//     stop while our own still come through.
//   - NATS wiped: the bucket is made again; nobody is dead before a full TTL has passed.
//   - PostgreSQL down: leases that could not be verified for LeaseTrust are not used; takeovers are
//     retried.
//   - A stopped owner that holds the row's lock in an open transaction: the taker ends that
//     transaction (pg_terminate_backend).
package partition
