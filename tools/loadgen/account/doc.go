// Package account keeps exact books of messages: what was sent and acknowledged,
// what each user was shown and in which order, and what the room's history holds
// at the end.
//
// Every message carries a [Key]: who sent it and that sender's sequence number in
// the room. The key, not the event id, tells two events for one send apart from
// one event for one send, so a retry that was appended twice is found even if the
// server never acknowledged it.
//
// A [Ledger] is fed concurrently; [Ledger.Verdict] judges, at the end, that
//
//   - each acknowledged send was shown to every user who was to receive it, once,
//     and is in the history;
//   - no send, acknowledged or not, exists as two events, and nobody was shown an
//     event twice;
//   - all receivers were shown a room's events in one order, which is the order of
//     the history, and a sender's own events are in the order of sending wherever
//     one was acknowledged before the next was sent;
//   - nothing appeared that nobody sent;
//   - what a first answer and those that followed its token showed is a part of the
//     history without a hole: each event once, and none left out.
package account
