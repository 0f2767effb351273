// Package pg opens the PostgreSQL shards of a cluster and keeps them true to what the cluster was created as.
//
// Model. A cluster has P partitions (fixed when it is created) that lie on one or more shards; a shard is one
// PostgreSQL database. Which shard holds a partition is not computed but read: the shard that has the row
// `partition(part)` has all rows of that partition. Each shard also has one row `cluster` that names the cluster,
// P, the shard's index and the number of shards.
//
// Invariants. Every process of a cluster sees the same P and the same map from partition to shard; a process that
// is configured otherwise (a shard missing, in another order, of another cluster, another P) refuses to start.
// Each partition has exactly one shard.
//
// Failures. Open waits for databases that are starting up, until its deadline. Afterwards pools reconnect by
// themselves; Transient says which errors are worth another try and Ambiguous which leave the outcome unknown.
package pg
