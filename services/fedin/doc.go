// Package fedin is the role that answers the server-server API for other servers.
//
// # Model
//
// A worker holds nothing that another worker lacks. Changes of a room go to the room's owner over gRPC. Reads of a room come
// from PostgreSQL (pkg/roomdb), and a server is shown what one of its users may see. Messages to devices, device lists and
// profiles lie with the users (pkg/userdb).
//
// # Transactions
//
// A transaction is done when its row in fed_txn is written; a repeated one gets the same answer from there. Until then
// everything may happen twice: PDUs and messages to devices are recognised by their ids, and repeating the rest is harmless. A
// transaction continues when the sender hangs up; the next attempt finds it done, or waits for it. Transactions of one server
// are processed one after the other. A malformed PDU or EDU costs an error entry; a failure of this cluster fails the whole
// transaction, which the sender then repeats.
//
// Presence counts if the server shares a room with this cluster. Presence that arrives a moment before the room that a local
// user is joining is held, within bounds, until the room is there (presence.go).
//
// # What strangers cost
//
// A request is checked in the order of what the checks cost: header, names, body, key. A key that could not be fetched is not
// asked for again for a minute. Few requests of one server wait for keys at a time, and few of all servers that were never
// verified. Verified servers are bounded as well: one transaction at a time, and a few expensive reads.
package fedin
