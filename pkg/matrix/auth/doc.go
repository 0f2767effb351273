// Package auth decides whether an event is authorised: the authorisation
// rules of room versions 1 to 12, the selection of auth events, and the power
// levels that both read.
//
// The rules are transcribed literally from the room version pages of the
// specification, one file per group of rules. A refusal is an [*Error] that
// names the rule by its number on the page of the event's room version, so
// "4.3.3" of version 11 and "5.3.3" of version 12 are both "the sender is
// banned".
//
// # The three questions
//
//   - [Needed] lists the (type, state key) pairs an event should cite:
//     "auth events selection" of the server-server API.
//   - [CheckAuthEvents] judges the events that it does cite: rule 2 (rules 2
//     and 3 of version 12).
//   - [Check] judges the event against a state: all other rules. The caller
//     chooses the state: the auth events, the state before the event, or the
//     current state ("checks performed on receipt of a PDU", steps 4 to 6).
//
// # What is the caller's duty
//
// Signatures and hashes are checked before (steps 2 and 3). The one signature
// that a rule asks for, that of the server which authorised a restricted join,
// is by default checked for presence only; see [Options.AuthoriserSigned].
//
// # Speed
//
// A check reads parsed projections of the create, power levels, join rules and
// member events. A projection is made once per PDU and kept beside it, so a
// check against warm state parses no JSON of the state and allocates nothing
// unless it refuses.
//
// # Where the page is silent
//
//   - A join rule that is absent is "invite"; one that is unknown in the room
//     version admits nobody.
//   - In versions 1 to 9 a malformed power level outside "users" is not refused
//     by any rule in the first power levels event of a room. Checks that need
//     such a level refuse; null counts as absent.
//   - Levels beyond 64 bits, which only strings and floats of old versions can
//     express, saturate.
package auth
