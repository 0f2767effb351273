// Package room is the role that owns rooms: it builds, authorises, resolves, signs and appends events.
//
// # Model
//
// A worker owns partitions (pkg/partition). A lease of a partition holds the rooms of the partition that are in use (lease.go).
// Each room has its own lock and a provisional head: the current state, forward extremities and
// counters as they will be when everything that was built is committed. A write locks the room, builds and authorises its
// events upon that head (writer), queues the change with the partition's lane, unlocks the room and waits. So the changes of
// a room are built one after the other without waiting for each other's commits, and those of different rooms in parallel.
//
// Nothing slow happens under the lock. Other servers are asked without it. The states of large forks are resolved without it,
// after which the draft is built again (resolve_unlocked.go).
//
// A lane commits the changes of some partitions of a shard. Changes that arrive during a commit are written by the next one
// (law 5): one transaction with a fixed number of statements, whatever the number of events, rooms and partitions. Its first
// statement is the fence (law 3); positions are given out in the order of the queue (law 4). After the commit the batch is
// published on the bus (law 6), the membership index of local users is written, and then the callers are answered.
//
// Events from other servers pass the steps that docs/incoming.md lists. Missing predecessors of an event are asked for, several
// times if there are many (receive_gaps.go). Those that nobody returns leave a hole in the timeline. History that is fetched
// later gets its places in that hole (backfill.go).
//
// A room of another server is joined without its members. They are fetched in the background, and then the events since
// the join are judged again: partial_fill.go, and docs/state.md, "Joining without the members".
//
// # Invariants
//
//   - appendAll is the only function that writes the tables of room partitions. The spool of fetched members, which may be
//     lost, is an exception.
//   - The memory of a lease is what its changes, in the order of the lane, make of the rows in PostgreSQL.
//   - An answer without a write, such as a refusal or "it is so already", rests on commits only, and is given after a look at
//     the partition's row (answers): a worker that was suspended does not report an outdated state.
//   - A numeric id is never given out twice within a lease, even if the change that used it failed.
//   - The same cause is appended once: recent causes are remembered, older ones meet the unique index on the cause.
//
// # Failures
//
//   - The fence does not hold: everything of the partition is dropped, and callers are sent to the new owner.
//   - The outcome of a commit is unknown: everything of its partitions is dropped, and their leases are acquired anew
//     before anything is read. Callers try again, and the cause tells whether the first attempt was written.
//   - PostgreSQL refuses a change: the batch is split until that change is alone. Its room is dropped and read anew, and
//     changes that were built upon it are built again.
//   - The membership index cannot be written: writes that changed a local user's membership wait. A takeover repeats
//     what is missing, from partition.projected on.
package room
