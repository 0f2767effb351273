// Package admission bounds what requests may hold before and while they are answered: bytes of their bodies, bytes of long
// answers, and places at work that waits for others.
//
// # Model
//
// A Pool has accounts. Each is named by a kind (an address, a user, a server) and a key, and each kind has a limit; a kind
// without keys is the limit of all. What a request holds is an Entry: it is charged to several accounts at once, as it grows,
// and never for what it announces.
//
// An entry is pending until its holder settles it: until a body is complete, and its sender is who it says. If an account is
// full, the pending entry of it that has not grown for the longest time makes room: its holder is told to give up, and what it
// held is free at once. So whoever opens many requests and leaves them standing pushes out their own, and a request that
// comes and is complete a moment later gets through. Only if nothing is pending is the newcomer refused.
//
// # Invariants
//
//   - What is charged to an account never exceeds its limit, except by Force, which steps of long answers use.
//   - An entry is told to give up at most once, and never after Settle or Release has returned.
//   - An account exists while something is charged to it: memory follows what is held.
//
// # Failures
//
// Take returns ErrFull, and ErrEvicted once the entry has had to make room.
package admission
