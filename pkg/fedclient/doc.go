// Package fedclient reaches other servers: it finds out where a server name leads (server-server API, "Resolving
// server names"), keeps connections, and makes requests within bounds.
//
// # Model
//
// A server name leads to a Route: where to connect, which name the certificate must have, and which Host header to
// send. Routes are cached: .well-known answers for as long as they say, within bounds, failures with a growing
// pause. Connections are pooled for each route; a route that changed gets connections of its own.
//
// # Invariants
//
// No connection is made to an address that the Guard refuses, whatever named it: the rule is applied to the address
// that the socket connects to. No more of an answer is read than the caller said. Redirects are followed for
// .well-known only, a few times, and only to https. Handshakes compute on half of the processors.
//
// # Failures
//
// A .well-known that cannot be fetched leaves what it said last in force for a while; without that the name itself is
// tried. A route that cannot be connected to is looked up anew the next time.
package fedclient
