// Package session answers who makes a request: it checks access tokens, of people and of application services.
//
// # Model
//
// A token carries its user's partition, so that one look-up in the right shard finds it; what is stored is its
// SHA-256. Answers are cached for a short time. Whoever revokes a token says so on the bus (hanse.auth), and every
// worker forgets what it holds of the user or the device.
//
// # Invariants
//
//   - An answer is cached only if nothing was revoked for its user between the start of the look-up and its end.
//   - While the bus is away nothing is served from the cache, and after it is back the cache starts empty: a
//     revocation that nobody heard is never outlived by more than the time of one look-up.
//
// # Failures
//
// If PostgreSQL does not answer, the request fails with a 5xx; it is never taken for an unknown token, which would log
// the client out.
package session
