// Package edge is the small reverse proxy that stands before the replicas of a Hanse cluster where nothing better
// does: on a developer's machine and in the end-to-end tests. It routes by path to the role that serves the path,
// and it documents by example what an operator's ingress has to do.
//
// A request goes to a replica that is ready (GET /readyz of its health listener). Syncs of one access token go to
// the same replica as long as that is ready (rendezvous hashing); all else goes around. A request that could not
// be delivered (connection refused) is given to another replica, whatever it is; one whose connection broke
// without an answer only if it is idempotent (RFC 9110, section 9.2.2), and that includes Matrix's PUT .../send.
package edge
