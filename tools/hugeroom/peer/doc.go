// Package peer plays every server of a synthetic room at once: one process that speaks the server-server API under all of their
// names. A homeserver under test joins the room through any of them, asks them for missing events, and receives events from them.
//
// # Model
//
// The names are addresses of the loopback network with one port ([hugeroom.LoopbackName]). One socket, bound to the loopback
// device, listens on all of them; the test's CA signs the certificate of an address when somebody first connects to it. The
// request's Host says which server is addressed. [Listen] comes first, because the names need its port, then the room, then [New].
//
// The peer trusts everybody: it verifies no requests. An event that is sent to it must have a known place in the room and be
// authorised there; then it is part of the room, and later events follow it.
//
// # Bounds
//
// Requests are bounded in size and in number at a time; the memory for received events is bounded, too. [Peer.Push] sends at a
// given rate and gives up after some attempts.
package peer
