// Package mac signs values that workers leave for each other in Redis. Redis is never truth, and somebody who can write to it
// must not thereby be able to change rooms or accounts.
//
// Model. The cluster has a secret (table cluster_secret on the first shard). The first worker that asks for it creates it. A Key
// is derived from it (HKDF-SHA-256, RFC 5869) for one purpose in one cluster. A signed value carries its expiry and its content,
// and an HMAC-SHA-256 (RFC 2104) over these and the name under which it is stored.
//
// Invariants. Open returns only what Sign was given, in a worker of the same cluster, under the same name, for the same purpose,
// and before it expires. A value that cannot be verified is treated as missing; there is no other way to read it. The secret and
// the keys are never printed.
//
// Limits. A signed value can be deleted, and put back until it expires: nothing that must happen only once may rely on Redis. The
// values are not encrypted: anybody who can read Redis can read them.
//
// After PostgreSQL was restored to an earlier moment, numbers that are given out again mean something else. Renew, which is part
// of a restore, replaces the secret, and so invalidates every value that was signed before. The secret is the generation.
//
// Failures. A worker that starts without PostgreSQL has no secret, and does not start. A worker keeps the secret that it has read:
// if the row is deleted, workers that start later have another secret, and do not accept values of the others until these are
// restarted.
package mac
