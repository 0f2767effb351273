// Package state holds the state of rooms: a persistent map from (type, state key) to
// the numeric id of an event, and its storage in PostgreSQL.
//
// A Map is immutable. Maps that came from one another share all that they have in
// common, and the shape of a map follows from its content alone: equal states are equal
// in shape and in ID, however they came about. Diff and DiffN therefore cost what
// differs, not what is there.
//
// A Snapshot is a Map with a number (sid), which event and room rows refer to. The owner
// of a partition makes snapshots with a Writer: Batch collects the rows of one
// transaction, Open goes on from a stored snapshot, Collect removes what nothing refers
// to. Everybody else reads by number through a Store, which caches within a budget of
// bytes.
//
// Invariants: rows never change; a snapshot's number is greater than that of anything it
// is stored against; a state event costs bytes near the size of its change; a cold load
// reads at most max(256, N) entries beside the N of the state.
//
// Failures: a number that is not stored is ErrNotFound, a row that cannot be read is
// ErrCorrupt; a snapshot that Collect removed while its owner still used it, against its
// word, is ErrCollected. Structure, proofs and measurements: docs/state.md.
package state
