// Package resolve resolves the states of the forks of a room into one at a cost that follows from what differs, not from
// what is there: the state resolution algorithms of room version 1, of versions 2 to 11 ("v2") and of version 12 ("v2.1",
// MSC4297). It is pure: states are maps of [hanse/pkg/state], auth events are walked in a [hanse/pkg/authgraph.Graph], and
// the few events that are replayed come from a [Source] in two calls. A [Resolver] remembers of the events of a room what
// orders them and how they were judged, so that the next resolution reads only what is new.
//
// # Model
//
// docs/state.md, section "Resolution", has the algorithm, the proof of what it rests on, its costs, and what was measured.
// In short: the states are compared by structure; the auth difference is found by a walk from the conflicted events that
// does not follow what all states share; power levels events know their common ancestors; and the state under construction
// is a small map of decisions over the state that is agreed.
//
// # Invariants
//
//   - The result is that of package stateres, the literal transcription of the specification and the oracle of this one's
//     tests, also in the points of interpretation that stateres lists.
//   - The result depends on the set of states only, and not on what is remembered.
//   - Nothing is visited, read or copied because of the size of the state or the age of the room alone.
//
// # Failures
//
// A resolution that costs more than its [Budget] ends with a [*BudgetError]; what it spent is reported in any case.
// Cancellation of the context ends it within some 100 µs. States and graph that contradict each other are an error
// ([ErrUnknown], [ErrMismatch]), never a result.
package resolve
