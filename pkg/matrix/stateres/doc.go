// Package stateres resolves the states of the forks of a room into one: the
// state resolution algorithms of room version 1, of versions 2 to 11 ("v2")
// and of version 12 ("v2.1", MSC4297).
//
// It is a plain transcription of the room version pages. Each function bears
// the name of the term that it computes, and computes it the way the page
// defines it, with no regard for the size of the room. It is the oracle that
// package resolve, which servers use, is tested against. No role uses it: it
// serves tests and generators of rooms.
//
// # Invariants
//
//   - The result depends on the sets, not on their order.
//   - Walks are loops over explicit work lists, never recursion, and visit an
//     event once: neither a deep nor a cyclic graph can exhaust the stack.
//   - A resolution reads at most maxEvents events.
//
// # Failures
//
// An event that the source does not have yields a [*MissingError] with all the
// missing events that could be found, so that one round of fetching is enough
// for a level of the graph. A cycle among auth events (possible only in
// versions 1 and 2, where event IDs are chosen) yields a [*CycleError].
//
// # Where implementations differ
//
// The state of a room is what its servers agree on, so where all that are in
// use do something else than the pages say, it is done as they do (Synapse,
// and the servers that use ruma's state resolution):
//
//   - The auth chain of a state set contains the set's own events. By the
//     page, an event that is in all sets is in the auth difference if the
//     other events of one set cite it, and those of another do not.
//   - In v2, the power events are enlarged along paths within the full
//     conflicted set. By the page, also by what is behind an event that is
//     not part of it.
//
// Both can be told apart in ordinary rooms, rarely: Cases of package roomgen
// has an example of each.
//
// The pages leave a choice in these points, taken as Synapse does:
//
//   - The power event types count with an empty state key only.
//   - The ordering of power events respects the edges between the ordered
//     events, not the paths through events outside.
//   - v1 resolves the members independently of one another, and where none of
//     the events for a key passes, the one with the lowest depth stays.
package stateres
