// Package ratelimit bounds how often an action is done: with a token bucket for each kind of action and each key, a user or an
// address.
//
// # Model
//
// The authoritative bucket is in Redis, one for all workers. So that not every request asks Redis, a worker leases tokens of
// that bucket, in slices of at most a twentieth of the burst and a second's worth, and spends them in memory. In addition each
// worker has a bucket of its own, which counts what this worker allows.
//
// # Invariants
//
//   - An action is allowed only if this worker's bucket has a token: nobody gets more than the limit from one worker.
//   - As long as Redis answers, all workers together allow the limit: leased tokens were taken from the shared bucket.
//     Tokens that a worker leased and did not use within leaseLife are lost to the key: it gets a little less, not more.
//   - A client that waits for as long as it was told is admitted, unless another client with the same key was faster.
//
// # Failures
//
// Redis is never truth: when it does not answer within askTime, this worker's buckets decide, and Redis is not asked for
// a moment (restTime), so that requests do not wait for it. N workers together then allow N times the limit. After Redis was
// emptied, all buckets are full.
//
// Memory is bounded: a worker forgets the least recently used buckets, and Redis drops each bucket when it would be full again;
// both only ever err in favour of the caller.
package ratelimit
