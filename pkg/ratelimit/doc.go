// Package ratelimit bounds how often somebody does something: a token bucket for each kind of action and each key, a
// user or an address.
//
// # Model
//
// The bucket that counts is in Redis, one for all workers. So that not every request asks Redis, a worker leases tokens
// of it in slices of at most a twentieth of the burst and a second's worth, and uses them up in memory. Beside that each
// worker keeps a bucket of its own, which counts what this worker allows.
//
// # Invariants
//
//   - An action is allowed only if this worker's bucket has a token: nobody gets more than a limit from one worker.
//   - As long as Redis answers, all workers together allow the limit: what is leased was taken from the shared bucket.
//     Tokens that a worker leased and did not use within leaseLife are lost to the key: it gets a little less, not more.
//   - Who waits as long as he was told is let in, unless somebody with the same key was faster.
//
// # Failures
//
// Redis is never truth: when it does not answer within askTime, this worker's buckets decide, and Redis is left alone
// for a moment (restTime), lest requests wait for it. All workers together then allow as many times the limit as
// there are. A Redis that was emptied begins with full buckets.
//
// Memory is bounded: in a worker the buckets that were used least recently are forgotten, in Redis each goes when it
// would be full; both only ever err in favour of the caller.
package ratelimit
