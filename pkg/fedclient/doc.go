// Package fedclient reaches other servers: it resolves server names (server-server API, "Resolving server names"), keeps
// connections, and makes requests within bounds.
//
// # Model
//
// A server name resolves to a Route: the address to connect to, the name that the certificate must have, and the Host header to
// send. Routes are cached: .well-known answers for as long as they say, within bounds; failures with growing pauses. Each route
// has its own pool of connections; a route that has changed gets new connections.
//
// # Invariants
//
// No connection is made to an address that the Guard refuses, however the address was found: the rule is applied to the address
// that the socket connects to. No more of an answer is read than the caller allows. Redirects are followed for .well-known only,
// a few times, and only to https. Handshakes compute on half of the processors.
//
// # Failures
//
// If .well-known cannot be fetched, its last answer stays in force for a while; without one the name itself is tried. A route
// that cannot be connected to is resolved anew the next time.
package fedclient
