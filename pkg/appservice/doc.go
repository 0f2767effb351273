// Package appservice knows the application services of the cluster: who each one is, what it may act on, and which ids it has to
// itself (application service API, "Registration").
//
// # Model
//
// A registration comes from a file, which every worker reads, or from the store, a table on the first shard that an operator's
// command changes while the cluster runs. Parse reads one registration into a Service, which never changes. A Snapshot is all
// services of one moment, checked against each other. The Registry holds the present snapshot and replaces it whole.
//
// A service belongs to one server name of the cluster. It acts for users of that name only, and has ids of that name only to
// itself, whatever else its expressions match. The member server_name of a registration says which name that is. Without it, it is
// the cluster's first one.
//
// Regular expressions are matched from the start of an id, as Synapse does it. They are RE2, so that no expression takes longer than
// its length times that of the id, and each is compiled once. Look-ahead and back references do not exist in RE2: they are an error
// when the registration is read.
//
// # Invariants
//
// In a snapshot no two services share an id or a token, no two have the same sender, and no id can be in exclusive namespaces of two
// services. That is decided exactly, from the expressions (overlap.go). A service whose registration has not changed is the same
// pointer in the next snapshot.
//
// # Secrets
//
// The as_token is kept as its SHA-256 only, in the store and in memory. The hs_token must be shown to the service, so it is stored
// as it is: who can read the first shard can pretend to be this homeserver towards the service. Printing or logging a Service gives
// its id only.
//
// # Failures
//
// At the start, everything that is wrong with a file is an error. Later a worker reads the files and the store again when the bus
// says that the store has changed, after each reconnection to the bus, and every few seconds. What is wrong then is logged and shown
// in a metric, and the present snapshot stays.
package appservice
