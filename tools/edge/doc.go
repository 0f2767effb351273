// Package edge is a small reverse proxy in front of the replicas of a Hanse cluster, for a developer's machine and for the
// end-to-end tests. It routes each path to the role that serves it, and shows by example what an operator's ingress has to do.
//
// A request goes to a replica that is ready (GET /readyz of its health listener). Syncs with one access token go to the same
// replica as long as that is ready (rendezvous hashing); other requests go to the replicas in turn. A request that could not be
// delivered (connection refused) is sent to another replica. A request whose connection broke without an answer is sent to
// another replica only if it is idempotent (RFC 9110, section 9.2.2), which includes Matrix's PUT .../send.
package edge
