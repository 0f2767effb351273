// Package follow lets the workers of a role follow the room log together.
//
// # Model
//
// The keys of a role (servers, users, rooms) lie in the P partitions of the cluster. Rendezvous hashing gives each partition to one
// ready worker of the role. Whoever takes a partition raises the epoch in its row of <tables>_owner, and only then reads what the
// former owner has stored. Everything that is stored for the partition goes through Part.Store, which holds that row under the
// worker's epoch or aborts the transaction. So a late write of a former owner has no effect.
//
// <tables>_cursor says how far the log was handed to a partition, for each log partition: everything up to there has been delivered,
// or is stored in tables of the role. It is stored every second, and when the partition is given up. The next owner gets again what
// came after it: each entry arrives at least once, and roles recognise repetitions by position.
//
// A role reads the log in one of two ways. With WholeLog each of its partitions may get entries of every log partition: a message in
// one room concerns servers of many partitions. With SamePartition, partition p gets only the entries of log partition p; a worker
// reads no more of the log than its share, so that more workers mean less work for each.
//
// Each role has its own two tables, of one form: their rows are written every second, and a role of an older version finds them
// where it left them during a rolling upgrade.
//
// # Failures
//
//   - A worker is killed: others take its partitions and begin at the stored cursors.
//   - A worker is suspended and resumes: its next Store fails with ErrLost. It gives the partition up, and does not take it back for a
//     while, so that two workers that see different members do not take it from each other all the time.
//   - One shard does not answer: the partitions of the others are taken, stored and given up as ever.
//   - PostgreSQL is down: cursors stay where they are, and what is handed over is kept by the role until it can be stored.
//   - An entry cannot be processed, or panics the role: it becomes a dead letter (package deadletter) under the role's name.
//   - A worker drains: its partitions have some seconds to finish what is on its way, then their cursors are stored.
package follow
