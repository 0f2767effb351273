// Package authgraph holds the graph that the state events of a room form by their auth_events, as small integers: what
// auth chains, their difference and state resolution walk, without SQL and without JSON.
//
// # Model
//
// A state event is an index. Indexes are given out in the order of the events' numeric ids, and an owner numbers an event
// after those that it cites, so the order of indexes is a topological order: the auth events of i are below i, and cycles
// cannot be. An event knows those that it cites, and those that cite it, newest first. Power levels events form a forest
// by the power levels event that each cites; jumps upwards make its nearest common ancestors cheap to find.
//
// # Invariants
//
//   - A graph only grows. What was said of an index stays true.
//   - Only state events are nodes: no other event is part of an auth chain.
//   - Memory is about 40 bytes an event and its key once.
//
// # Failures
//
// An event that is older than one the graph has, or that cites what the graph does not have, is refused: the graph must
// then be loaded anew.
package authgraph
