// Package discovery tells clients, other servers and people what this server is and where it is reached: the documents
// under /.well-known/matrix (client-server API, "Server Discovery"; server-server API, "Resolving server names") and a page at /.
//
// It stands on the listener of the client API and on that of the federation API. A name such as localhost:8448 is the
// federation listener's address, and clients that are given a user id ask there.
package discovery
