// Package servers knows the names that this cluster serves and the keys with which each of them
// signs (law 13: never assume one server name).
//
// Keys lie in table signing_key, in the partition of the name. The first worker that starts makes
// the first key. Rotate adds a key; every worker signs with it after its next reload, and the old
// key is told to expire only when all of them have had the time for that, so that no event is signed
// by a key after its end (server-server API, "Retrieving server keys": old_verify_keys).
//
// If PostgreSQL does not answer, what was loaded last stays in force.
package servers
