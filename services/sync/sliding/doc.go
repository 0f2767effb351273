// Package sliding is the protocol of simplified sliding sync (MSC4186) without what it tells of: requests, in the form of the merged
// proposal (/v4/sync) and in the one before it, which clients speak (/unstable/org.matrix.simplified_msc3575/sync), and what the
// server remembers of a connection. It does no I/O.
//
// A connection (Conn) remembers which rooms the client has been told of, and how far. Of most that is: up to the position that the
// client comes back with, which says so itself; such a room is live. A room of which something happened that the client was not told,
// as it was outside of what the client asks for, has the log position up to which it was told. So an answer that tells of
// messages in live rooms changes nothing, and a room takes some bytes.
package sliding
