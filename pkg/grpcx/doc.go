// Package grpcx is how roles call each other: one gRPC server for each process, which listens in memory, and also on the
// network if there are other processes; and connections by address. A call to a role in the same process follows the same path
// as one to another process, except for the transport.
//
// Errors: a *merr.Error that a handler returns arrives as a *merr.Error. partition.NotOwner travels as a status detail of its
// own. Every other error is logged here and arrives as a bare Unknown.
package grpcx
