// Package mac makes values that workers leave for each other in Redis worth believing: Redis is never truth, and whoever can
// write to it must not thereby be able to write rooms or accounts.
//
// Model. The cluster has a secret (table cluster_secret on the first shard), made once by the first worker that asks for it.
// A Key is derived from it (HKDF-SHA-256, RFC 5869) for one purpose in one cluster. A signed value is an HMAC-SHA-256 (RFC
// 2104) over the name under which it is kept, the time until which it is good, and what it says; with the latter two.
//
// Invariants. Open returns only what Sign was given, in a worker of the same cluster, under the same name and for the same
// purpose, and not for longer than Sign was told. What cannot be verified is as if it were not there; there is no way to
// read it all the same. The secret and the keys are never printed.
//
// What it does not do. A signed value can be deleted, and put back until it ends: what must happen once only is not left to
// Redis. Nothing is hidden: who can read Redis can read the values.
//
// Numbers that a restore of PostgreSQL to an earlier moment gives out again are other things by then: Renew, which belongs to a
// restore, makes the secret another one, and with it what was signed before worthless. The secret is the generation.
//
// Failures. Without PostgreSQL a worker that starts has no secret and does not start. A worker keeps the secret that it has read:
// when the row is deleted, those that start later have another one, and do not believe the others until these start again.
package mac
