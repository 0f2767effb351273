// Package admin does the work of operators that is outside of the client and server APIs: accounts, signing keys, partitions,
// dead letters. It works directly on the databases, whether the cluster is running or not. Running workers learn of a change
// over the bus, or read it when what they have cached expires.
//
// The commands of cmd/hanse are its only users today. An admin API for HTTP belongs here too.
package admin
