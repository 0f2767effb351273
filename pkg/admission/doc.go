// Package admission bounds what requests may hold before and while they are answered: bytes of their bodies, bytes of long
// answers, and places at work that waits for others.
//
// # Model
//
// A Pool has accounts. Each is named by a kind (an address, a user, a server) and a key, and each kind has a limit; a kind
// without keys is an account that all requests share. What a request holds is an Entry. It is charged to several accounts at
// once, as it grows, and never for a length that was only announced.
//
// An entry is pending until its holder settles it: until the body is complete and its sender is verified. If an account is full,
// its pending entry that has not grown for the longest time makes room: the holder of that entry is told to give up, and what
// it held is free at once. So a client that opens many requests and abandons them displaces its own requests, and a request
// that arrives and is complete a moment later gets through. The new entry is refused only if no entry is pending.
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
