// Package grpcx is how roles call each other: one gRPC server per process, which listens on the
// network if there are other processes and always in memory, and connections by address. A call to
// a role in the same process takes the same way as one to another process, but for the transport.
//
// Errors: a *merr.Error returned by a handler arrives as a *merr.Error; partition.NotOwner travels
// as a status detail of its own; everything else is logged here and arrives as a bare Unknown.
package grpcx
