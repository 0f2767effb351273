// Package hugeroom makes synthetic rooms that are as large as the largest of the network, and as hostile as anybody could
// make them: signed events with right hashes, of ten thousand servers if wanted, always the same for the same [Config].
//
// # Model
//
// A [Room] is a graph of numbered events. [New] makes its history: a line of events from the creation on, in which
// members come and go while power levels, join rules and the server ACL change. Onto that, patterns add forks: [Room.Forks],
// [Room.FromCreation], [Room.Netsplit], [Room.PowerLevelChain], [Room.ACLChurn], [Room.JoinPart]; [Room.Add] adds a single
// event anywhere, [Room.AddForeign] one that a real server made. [Room.Heal] joins ends of the room.
//
// # Invariants
//
//   - An event is numbered after all that it names; its id, hash and signature are what the room version asks for.
//   - Its auth events are those that the specification selects in the state before it.
//   - Events of the history are authorised by construction (a test has small rooms checked); those of patterns are
//     checked by package auth when they are made, and one that would be refused is not made.
//   - The state before an event with several prev events is what package stateres says: the literal transcription of
//     the specification, whose cost grows with the room. So this package is the expectation that a server is held to.
//     States of more than [Config.Literal] entries are left to package resolve, which the transcription is the oracle of;
//     it reads an auth graph that is made here, from the events alone.
//
// # Cost
//
// The history is hashed in one goroutine, as each event names the one before, and signed by all processors. The largest
// room takes about a kilobyte of memory for each event.
//
// A Room is not safe for concurrent use. Package peer serves one to other servers.
package hugeroom
