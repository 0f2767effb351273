// Package roomdir is the directory of rooms: aliases, and what people who are not in a room may learn of it (its
// summary), for every role that answers such questions.
//
// An alias lies in its own partition and may be written by any worker. A new alias for a new room is reserved first
// (Reserve) and pointed at the room once that exists (Point); the reservation of a worker that died in between may be
// taken over after a while.
//
// Summaries are read from current states, which are immutable, and cached by them.
package roomdir
