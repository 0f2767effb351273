// Package fedout is the only role that connects to other servers. It makes requests for the other roles, fetches verify keys,
// and sends local events and EDUs to the servers in the room.
//
// # Model
//
// A destination has a cursor, not a queue of copies (DESIGN, "Fan-out without fan-out"). Every fedout worker reads the room
// log. Package follow assigns each partition of destinations to one worker, which hands the local entries to those of its
// destinations that are in the room. A destination that keeps up has a short queue of references in memory. One that fails, or
// is too slow for that queue, is marked behind-since(position) once for each log partition (destination_behind), and costs
// nothing more until its backoff ends. Then it reads from the log what it missed in the rooms that it shares.
//
// fed_cursor says how far the log was handed to those destinations of a partition that keep up. It is stored every second,
// and never passes an entry that is neither delivered nor covered by a destination_behind row: the next owner reads again what
// a killed worker had in memory. The stored rows of a destination are kept apart from its present position, so that a
// destination that catches up and falls behind again between two flushes leaves no row (behind.go).
//
// Changes of device lists are entries of the log. When a local user joins a room, those servers in it that do not receive the
// user's device changes yet are told of all devices; that, too, follows from the log (arrive.go). Other EDUs that must arrive
// (to-device messages) are rows of fed_edu, which are deleted when the destination has acknowledged them. Typing and presence
// come over the bus, go to destinations that keep up, and may be lost. When a user joins a room, the presence of the users who
// meet there is read from Redis (greet.go).
//
// # Invariants
//
// A destination has one transaction in progress at a time, with at most 50 PDUs and 100 EDUs. Servers that hang do not delay
// those that answer well (slots.go): the latter have slots of their own, nobody keeps a slot for longer than a second, and
// transactions that wait longer are bounded separately. A quarter of the slots is never used for events that go to more than a
// hundred servers, or for catching up. Events of a room are sent in the order of the log. Everything arrives at least once;
// receivers recognise a repeated event by its id. A server gets only events of rooms that it was in when they were sent, or
// that concern its own users.
//
// # Failures
//
// PostgreSQL is down: cursors stay where they are, queued items are delivered, and nothing is marked. NATS is down: the log
// reader falls back on PostgreSQL. Two workers that both believe that they own a partition both send, which is harmless; only
// one of them stores positions of destinations (package follow).
//
// A receiver that always refuses a transaction because of one event or EDU does not block what follows: the item is found by
// bisection and skipped (refused.go).
//
// All workers share the backoff of a destination (pkg/destination): the later observation counts.
package fedout
