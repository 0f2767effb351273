// Package client is the role that answers the client-server API, but for /sync and media. This package wires it: it makes the concerns,
// each a package of its own, and runs what they do in the background.
//
//	core       what all concerns share: routes, who asks, limits, quotas, answers, other servers, tasks
//	account    registering, logging in, devices, passwords, closing an account
//	keys       end-to-end encryption: keys, cross-signing, backup, dehydrated devices, messages to devices
//	people     profiles, presence, the user directory
//	settings   account data, filters, push rules, pushers
//	timeline   reading rooms: messages, state, relations, search
//	directory  finding rooms: aliases, published rooms, spaces
//	rooms      acting in rooms: making, upgrading, membership, sending, receipts
//	about      versions, capabilities, TURN
//
// What several concerns use has its package, too: access (what a user may do in a room), sharing (who is in rooms together), filter,
// uia (user-interactive authentication). clienttest runs a worker for tests.
//
// # Model
//
// A worker holds nothing that matters: what a request changes is in PostgreSQL before the answer. User data it writes
// itself (pkg/userdb); rooms it reads from PostgreSQL (pkg/roomdb) and changes through the owner of the room's
// partition, with one call for each request of a client.
//
// What a request promises and cannot do in its own transaction (telling rooms of a new display name, of new devices,
// leaving the rooms of a closed account) is stored as a task in that transaction. The worker starts on it at once; if
// it dies, another one finds the task.
//
// Redis holds what may be lost: sessions of user-interactive authentication, nonces, presence. Without Redis, single
// stage authentication works still.
//
// Handlers parse and check the request, call one function, and write the answer.
package client
