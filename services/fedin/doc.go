// Package fedin is the role fedin: the server-server API that other servers call.
//
// # Model
//
// A worker holds nothing that another one lacks. What concerns a room goes to the room's owner over gRPC; what only
// reads a room is read from PostgreSQL (pkg/roomdb), and shown to a server as far as one of its users may see it.
// Messages to devices, device lists and profiles lie with the users (pkg/userdb).
//
// # Transactions
//
// A transaction is done when its row in fed_txn is written; a repeated one gets the same answer from there. Before
// that everything may be done twice: PDUs are known by their ids, messages to devices by theirs, and the rest does no
// harm. It goes on when the sender hangs up, whose next attempt finds it done or waits for it. Transactions of one
// server are taken one after the other; a PDU or EDU that is not what it should be costs an error entry, a broken part
// of our own the whole transaction, which the sender then repeats.
//
// Presence counts if the server shares a room with us. What comes a moment before a room that one of ours joins is held,
// bounded, until the room is there (presence.go).
//
// # What strangers cost
//
// A request is looked at in the order of what that costs: header, names, body, key. A key that could not be had is not
// asked for again for a minute, few requests of a server wait for keys at a time, and few of all that were never
// verified. Who is verified is bounded as well: transactions one at a time, a few expensive reads.
package fedin
