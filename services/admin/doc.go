// Package admin does what an operator does past the client and server APIs: accounts, signing keys, partitions, dead
// letters. It works straight on the databases, so the cluster may be running or not; running workers hear of a change
// on the bus, or read it within the time for which they trust what they remember.
//
// The commands of cmd/hanse are its only users today. An admin API for HTTP belongs here too.
package admin
