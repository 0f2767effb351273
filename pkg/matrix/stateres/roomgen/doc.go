// Package roomgen makes rooms for tests: small ones by hand, with
// [Room.Send], and random ones with [Random]. Every event is built, hashed and
// signed as the room version asks, cites the auth events that the
// specification selects, and is authorised by the state before it; the state
// before a merge is resolved with package stateres.
//
// All randomness comes from the [Rand] given, so a room is reproducible from a
// seed, and a property test can let its own source shrink it.
package roomgen
