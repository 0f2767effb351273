// Package asquery asks application services what only they know: whether a user or an alias exists that nobody here knows
// (application service API, "Querying"), what is on third-party networks, and keys of their users (MSC3983, MSC3984).
//
// # Model
//
// A question about an id goes to the services of the id's server name that have it in a namespace: to the one that has it to itself,
// or else to all, at once. A service that says yes has created the user or the room by then; who asked looks again.
//
// # What a slow service costs
//
// A question ends with its time, and with that of the request that needs the answer. Requests that need the same answer share one
// question, which goes on if the first of them leaves. That an id does not exist is remembered for a minute. A service that does not
// answer is not asked anything for some seconds, so that it holds up a few requests and not all. Nothing waits for a service but the
// requests that need its answer, and these questions use connections of their own: events are delivered beside them.
//
// What a service answers is read up to a bound, and everything that is remembered has a bound too.
package asquery
