// Package presence keeps track of which users are online: in Redis, so that every worker sees the same, and on the bus, so that
// every worker learns of changes. It is never truth.
//
// # Model
//
// The presence of a user is one message ([logv1.Presence]), in Redis and on the bus alike. The message of a local user has what
// each device reports; the user has the presence of the most active device (busy before online, unavailable, offline;
// client-server API, "Presence": "collated from both per-device and per-user data"). A device reports by polling ([Poll],
// [Keep], [Leave]) or by PUT /presence ([Put]). A poll does not change the status message, and does not end busy. Each device
// counts until a given time. The worker at which it polls extends that time, and removes the device when it has gone ([Leave]);
// devices of a killed worker expire. Users of other servers have the presence that their server reported, until nothing was
// heard of them for [RemoteFor].
//
// # Invariants
//
// Each change is a function from the old message to the new one, which is stored only if nobody has stored another message
// meanwhile: no worker overwrites a message that it has not seen, and of several workers that notice the same (such as a device
// that has gone) one publishes it. Versions of a user grow; a reader drops a message that is older than the one it has. Other
// servers are told of changes that they can see, and every [PingEvery] of a local user whose presence does not change, because
// they treat users whom they do not hear of as offline (Synapse: after half an hour).
//
// # Failures
//
// Redis was wiped: the worker that makes a change starts from the last message that it has received, which the others have
// received too. Redis is down: the same, with changes published over the bus only; Redis is tried again after a pause. NATS is
// down: listeners learn of the next change, and workers look into Redis from time to time. Both are down: everybody keeps the
// last known presence until it expires.
package presence
