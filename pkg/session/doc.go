// Package session finds out who makes a request: it checks access tokens, of people and of application services.
//
// # Model
//
// A token carries its user's partition, so that one look-up in the right shard finds it; its SHA-256 is stored. Answers are
// cached for a short time. A worker that revokes a token announces that on the bus (hanse.auth), and every worker forgets what
// it holds of the user or the device.
//
// # Invariants
//
//   - An answer is cached only if nothing was revoked for its user between the start of the look-up and its end.
//   - While the bus is down nothing is served from the cache, and afterwards the cache starts empty: a worker that has missed
//     a revocation accepts the token for no longer than one look-up takes.
//
// # Failures
//
// If PostgreSQL does not answer, the request fails with a 5xx. The token is never treated as unknown, which would log the client
// out.
package session
