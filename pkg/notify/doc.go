// Package notify says what notifies whom: it evaluates push rules together with a user's other preferences, for the roles that count
// what is unread and for the one that tells push gateways.
//
// A user's rules for whole rooms (a muted room, one that only mentions notify of) are taken out of the rule set. If the rest are the
// default rules, as it is with most users, the outcome of an event is that of the default rules, which is found once for all, and
// then cut down by the level of the room. Only users with rules of their own that look at single messages have a program of their
// own; equal programs are of one class (pushrule.Program.Class).
package notify
