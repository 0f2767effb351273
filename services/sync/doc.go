// Package sync is the role that answers /sync (client-server API, section "Syncing").
//
// A worker follows the logs of all partitions and keeps the newest entries of the rooms that its connected users are in
// (tail.go), and the memberships of these users (user.go). A poll is computed from a moment: the user's rooms at a
// position of the user's stream, and a position of each log; the answer's token names just these. What lies between two
// moments comes from memory where it reaches back far enough, and from PostgreSQL where not: the answer is the same, so
// that a client may turn to any worker with any token.
//
// A poll that finds nothing waits. It is woken by entries of its user's rooms, by changes of the user's stream, by
// typing and by presence. What the bus loses is found in PostgreSQL: by the log reader (gaps and heads), and for the
// user's stream by a question that a poll asks before it begins to wait, together with others.
//
// A timeline ends at a hole, where events are missing (docs/architecture.md): what is before it is not told as if it came next, and
// the state leads up to the hole. Of what a timeline changes clients get the state from before it, of all else that at its end.
//
// Who polls is there (polling.go): a worker speaks for the devices that poll at it, and takes them out when they have gone.
// How everybody is it has from Redis when it starts, and from the bus then (presence.go); what it does not hear it finds in
// Redis within minutes. Those that it knows are bounded.
//
// An answer that cannot be computed is an error: a token never moves past what was not told.
package sync
