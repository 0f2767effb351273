// Package client is the role that answers the client-server API, but for /sync and media: accounts, sessions, devices,
// keys, account data, profiles, directories, and everything that clients do in rooms.
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
// # Files
//
// Each endpoint group has a file and a method that registers its routes (routes.go calls them). Handlers parse and
// check the request, call one function, and write the answer.
package client
