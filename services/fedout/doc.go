// Package fedout is the only role with a way out to other servers. It makes requests for the other roles, fetches
// verify keys, and sends our events and EDUs to the servers in the room.
//
// # Model
//
// A destination has a cursor, not a queue of copies (DESIGN, "Fan-out without fan-out"). Every fedout worker tails
// the room log; each partition of destinations belongs, by rendezvous hashing, to one worker, which hands the local
// entries to those of its destinations that are in the room. A destination that keeps up has a short queue of
// references in memory; one that fails, or is too slow for that queue, is marked behind-since(position) once for each
// log partition (destination_behind) and costs nothing more until its backoff ends. Then it reads from the log what
// it missed of the rooms that it shares.
//
// fed_cursor says how far the log was handed to the destinations of a partition that keep up. It is stored every
// second and never passes an entry that is neither delivered nor covered by a destination_behind row: what a killed
// worker had in memory is read again by the next one. What the tables have of a destination is kept apart from where
// it stands, so that one that catches up and falls behind again between two flushes leaves no row (behind.go).
//
// Changes of device lists are entries of the log. When a user of ours joins a room, the servers in it that are not told of
// the user's devices yet are told of all of them; that, too, follows from the log (arrive.go). Other EDUs that must arrive
// (to-device messages) are rows of fed_edu, deleted when the destination has acknowledged them. Typing and presence come
// over the bus, go to destinations that keep up, and may be lost. Presence of those who meet in a room is read from Redis
// when one of them joins (greet.go).
//
// # Invariants
//
// One transaction at a time is on its way to a destination, of at most 50 PDUs and 100 EDUs. Servers that hang do not
// delay those that answer well (slots.go): the latter have slots of their own, nobody keeps a slot for longer than a
// second, and transactions that wait longer are bounded apart from these. A quarter of the slots is never taken by what
// goes to more than a hundred servers, or is caught up. Events of a room are sent in the order of the log. Everything arrives at least once; receivers know a repeated event by its id. A server
// gets only events of rooms that it was in when they were sent, or that concern its own users.
//
// # Failures
//
// PostgreSQL away: cursors stay where they are, what is in memory is delivered, nothing is marked. NATS away: the
// log reader falls back on PostgreSQL. Two workers that both think a partition theirs send twice, which is
// harmless; only one of them stores where the destinations stand. Whoever takes a partition raises fed_owner.epoch before it
// reads; every transaction that stores cursors or rows holds that row under the epoch of its worker, or is aborted (law 3). So
// what a worker reads when it takes a partition is all that there is of others, and what one that stood still stores late has no
// effect. That one gives the partition up, and does not take it back for a while, lest two that see different members take
// it from each other all the time.
//
// A receiver that refuses a transaction because of one event or EDU in it, for good, does not hold up what is behind that:
// the item is found by halves and passed over (refused.go).
//
// The backoff (pkg/destination) is everybody's: the later observation counts.
package fedout
