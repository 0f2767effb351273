// Package peer is every server of a synthetic room at once: one process that speaks the server-server API under all of
// their names. A homeserver under test joins the room through any of them, asks them for what it lacks, and is sent
// events by them.
//
// # Model
//
// The names are addresses of the loopback network with one port ([hugeroom.LoopbackName]). One socket, bound to the
// loopback device, listens on all of them; the certificate for an address is made by the test's CA when somebody first
// connects to it. Who is addressed is what the request's Host says. [Listen] comes first, as the names need its port,
// then the room, then [New].
//
// The peer believes everybody: it verifies no requests. Events that are sent to it must have a known place in the room
// and be authorised there; then they are part of the room, and what is built later follows them.
//
// # Bounds
//
// Requests have a limit in bytes and in how many are worked on at once; what is remembered of received events is
// bounded, too. [Peer.Push] sends at a given rate and gives up after some attempts.
package peer
