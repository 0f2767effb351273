// Package sync is the role that answers /sync (client-server API, section "Syncing").
//
// A worker follows the logs of all partitions. It keeps the newest entries of the rooms of its connected users (tail.go), and
// the memberships of these users (user.go). A poll is computed for a moment: a position of the user's stream, which says in
// which rooms the user is, and a position of each log; the answer's token names exactly these. Changes between two moments
// come from memory where it reaches back far enough, and from PostgreSQL otherwise. The answer is the same, so a client may go
// to any worker with any token.
//
// A poll without news waits. Entries of the user's rooms, changes of the user's stream, typing and presence wake it. PostgreSQL
// has what the bus loses: the log reader finds it there (gaps and heads), and before a poll waits it asks for the position of
// the user's stream, together with other polls.
//
// A timeline ends at a hole, where events are missing (docs/architecture.md): events before the hole are not shown as if they
// were adjacent, and the state leads up to the hole. For the state keys that a timeline changes clients get the state before the
// timeline, for all other keys the state at its end.
//
// A user whose client polls is online (polling.go): a worker reports the devices that poll at it, and removes those that have
// stopped. It reads everybody's presence from Redis when it starts, and then follows the bus (presence.go); within minutes it
// finds in Redis what it has missed. The number of users whose presence it remembers is bounded.
//
// What is live belongs to no protocol: the logs (tail.go), users and their rooms (user.go, prefs.go), device lists, unread counts, typing
// and presence. Its functions take an asker (asker.go), a device that asks, and say what else they need, such as which events of a
// timeline are wanted. /v3/sync is the poll (poll.go) and what takes one: answers, filters, openings, the writing of rooms.
//
// Sliding sync (MSC4186) is slide*.go: a request (slide.go), a user's rooms by activity (slide_order.go) and by filters (slide_filter.go),
// what is told of rooms (slide_rooms.go, slide_write.go) and by extensions (slide_ext.go), and connections (slide_conn.go). Its requests
// and what is stored of a connection are package sliding, which does no I/O. See docs/sliding-sync.md.
//
// An answer that cannot be computed is an error: a token never moves past anything that was not delivered.
package sync
