// Package presence keeps who is online: in Redis, so that every worker sees the same, and on the bus, so that every
// worker hears of changes. It is never truth.
//
// # Model
//
// What is known of a user is one message ([logv1.Presence]), in Redis and on the bus alike. A local user's has what each
// device says: the user is what the most present of them is (busy before online, unavailable, offline; client-server
// API, "Presence": "collated from both per-device and per-user data"). A device speaks by a poll ([Poll], [Keep],
// [Leave]) or by PUT /presence ([Put]); a poll does not touch the status message, and does not end busy. Each device
// counts until a time: who polls moves that on, and takes the device out when it has gone ([Leave]); what a worker that
// was killed leaves behind ends by itself. Other servers' users are as they were told to be, until they have not been
// heard of for [RemoteFor].
//
// # Invariants
//
// Each change is a function from the message before to the one after, stored only if nobody has stored another one
// meanwhile: no worker overwrites what it has not seen, and of several that find the same (a device that has gone) one
// tells. Versions of a user grow; a reader drops what is older than what it has. Others are told of a change that they
// can see, and of a local user who does not change every [PingEvery], as other servers take one for gone of whom they
// do not hear (Synapse: after half an hour).
//
// # Failures
//
// Redis wiped: the worker that changes something begins with what it has heard last, which the others have heard too.
// Redis away: the same, told over the bus only; it is asked again after a pause. NATS away: who listens hears of the
// next change, and workers look into Redis from time to time. Both: everybody is as they were heard last, until they
// count no more.
package presence
