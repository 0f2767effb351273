// Command loadgen measures the capacity of a Matrix homeserver, of any make:
//
//	loadgen --server http://127.0.0.1:8008 --secret S --pid-tree 4711 send --senders 32
//	loadgen compare before.json after.json
//
// It registers the accounts and fills the rooms that a scenario needs, keeps both
// in a state file so that a second run starts at once, and then measures: latency
// percentiles, throughput, and of the given processes CPU time until the server
// is quiet again and memory. Scenario deliver also keeps exact books: see package
// account.
//
// Layout: measure reads clocks and /proc; stage sets accounts and rooms up;
// scenario has one file a scenario; report prints and compares; account keeps the
// books.
package main
