// Package room is the role that owns rooms: it builds, authorises, resolves, signs and appends events.
//
// # Model
//
// A worker owns partitions (pkg/partition); for each lease there is a lease, which holds the rooms of the partition
// that are in use. A room is guarded by its own lock and carries its provisional head: current state, forward
// extremities, counters, as they will be when everything that was built is committed. A write locks the room, builds
// and authorises its events upon that head (writer), queues the change with the partition's lane, unlocks and waits.
// So the changes of a room are built one after the other without waiting for each other's commit, and those of
// different rooms in parallel.
//
// What takes long is not done under the lock: other servers are asked without it, and the states of large forks are resolved
// without the lock, after which the draft is made again (resolve_unlocked.go).
//
// A lane commits the changes of some partitions of a shard. What comes while a commit is under way makes up the next
// one (law 5): one transaction of a fixed number of statements, whatever the number of events, rooms and partitions.
// Its first statement is the fence (law 3), positions are given out in the order of the queue (law 4). After the commit
// the batch is published on the bus (law 6), the membership index of local users is written, and then whoever waits is
// answered.
//
// What is missing before an event is asked for, several times if it is much (receive.go). What is not told makes a hole in the
// timeline. History that is fetched later gets its places in the hole that it belongs into (backfill.go).
//
// A room of another server is joined without its members. They are fetched in the background, and then the events since
// the join are judged again: partial_fill.go, and docs/state.md, "Joining without the members".
//
// # Invariants
//
//   - appendAll is the only function that writes the tables of room partitions, but for the spool of fetched members,
//     which may be lost.
//   - What is in memory of a lease is what its changes, in the order of the lane, make of what is in PostgreSQL.
//   - What is answered without a write, a refusal or "it is so already", rests on commits only, and is given after a look
//     at the partition's row (answers): a worker that was stopped does not tell what was true before.
//   - A numeric id is never given out twice within a lease, also if the change that used it failed.
//   - The same cause is appended once: recent ones are remembered, older ones meet the unique index on the cause.
//
// # Failures
//
//   - The fence does not hold: everything of the partition is dropped, callers are sent to the new owner.
//   - The outcome of a commit is unknown: everything of its partitions is dropped and their leases are taken anew
//     before anything is read; callers try again, and the cause tells whether the first try was written.
//   - PostgreSQL refuses a change: the batch is split until it stands alone; its room is dropped and read anew, changes
//     that were built upon it are built again.
//   - The membership index cannot be written: writes that changed a local user's membership wait; a takeover repeats
//     what is missing, from partition.projected on.
package room
