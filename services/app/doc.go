// Package app makes a process out of roles: it opens what they need, builds them from the table in roles.go, starts
// them, and stops them in the reverse order.
//
// Start: the data directory's lock and the private PostgreSQL (if there is no other), the shards, NATS, Redis, the
// gRPC server, membership as "starting"; the roles are built and run; the APIs listen; then the worker says that it is
// ready, to the others and at /readyz.
//
// End (SIGTERM): the worker says that it is draining and /readyz says no, while everything still works, until load
// balancers have noticed; the roles drain (partitions go to other workers, open polls are answered); the APIs finish
// what is under way and close; the roles end; gRPC, membership, NATS, Redis, the pools and the private PostgreSQL
// close, each after all that uses it.
package app
