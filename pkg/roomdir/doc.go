// Package roomdir is the directory of rooms: aliases, and the summary that users outside of a room may see. Every role that
// answers such requests uses it.
//
// An alias lies in its own partition, and any worker may write it. An alias for a new room is reserved first (Reserve) and
// pointed at the room when that exists (Point). A reservation whose worker has died in between may be taken over after a while.
//
// Summaries are read from current states, which are immutable, and cached by them.
package roomdir
