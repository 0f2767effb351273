// Package authgraph holds the graph that the state events of a room form by their auth_events, as small integers: what
// auth chains, their difference and state resolution walk, without SQL and without JSON. A Store reads graphs from
// PostgreSQL, in blocks that cost a few bytes an event.
//
// # Model
//
// A state event is an index. Indexes are given out in the order of the events' numeric ids, and an owner numbers an event
// after those that it cites, so the order of indexes is a topological order: the auth events of i are below i, and cycles
// cannot be. An event knows those that it cites, and those that cite it, newest first. Power levels events form a forest
// by the power levels event that each cites; jumps upwards make its nearest common ancestors cheap to find.
//
// Stored, a graph is blocks of 4096 events, and the events behind the last block as they are in the event table.
// docs/state.md, section "The auth graph", has the form and what was measured.
//
// # Invariants
//
//   - A graph only grows. What was said of an index stays true.
//   - Only state events are nodes: no other event is part of an auth chain.
//   - The events of a room are committed in the order of their numeric ids: a graph that has one has all below it.
//   - A block follows from the event table, bit by bit: it does not matter who writes it, how often, or whether at all.
//   - Memory is about 130 bytes an event, keys included.
//
// # Failures
//
// An event that is older than one the graph has, or that cites what the graph does not have, is refused: the graph must
// then be loaded anew. Blocks that cannot be read are deleted and made anew from the event table. Blocks that cannot be
// written cost the next reader time.
package authgraph
