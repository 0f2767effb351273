// Package merr holds the Matrix error: an HTTP status, an errcode and a text for a person.
//
// Everything below the HTTP edge returns ordinary errors, wrapped with %w. Where a failure has a
// meaning in the Matrix API the error in the chain is an *Error made by one of the constructors
// here; it survives gRPC (pkg/grpcx) and is found again with errors.As. Everything else is a bug or
// an outage: the edge answers 500 M_UNKNOWN, and logs the cause with the trace id. The text of such
// an error never reaches a client.
package merr
