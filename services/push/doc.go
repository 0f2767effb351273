// Package push is the role that tells push gateways of what notifies users (client-server API, "Push Notifications"; Push Gateway
// API).
//
// # Model
//
// A worker owns some of the cluster's partitions (package follow). For each it does two things. It reads the log of the rooms in the
// partition and evaluates each event (evaluate.go): for the members who have pushers, and for nobody else. The outcome of the default
// rules is found once for all of them, that of other rules once for each class of equal rules. Whom an event notifies gets a row of
// push_pending for each pusher, in the user's partition, whose owner is woken over the bus. And it sends what waits for the pushers
// of the users in the partition (box.go, send.go). A row is deleted when the gateway has answered.
//
// Invites to rooms that this server is not in are in no log; they come by push_invite (invite.go).
//
// The badge is the number of rooms with unread notifications, and of invites, as other servers count it (badge.go). push_unread has
// the rooms that may count: those in which the user was notified of something. What of that is still unread is read from the
// receipts, so that no count stays that should have gone.
//
// # Invariants
//
// Work for an event is bounded by the members who have pushers. One request is on its way to a pusher at a time, its events in the
// order of their evaluation. A notification arrives at least once, under the id of its event. Each gateway has its own bound of
// requests under way, and those that have not answered well lately share a quarter of all, so that slow and dead ones delay nobody
// else (gateway.go).
//
// # Failures
//
//   - A gateway fails: it is asked again after a pause that grows to five minutes, by one request at a time until one succeeds. What
//     waits for its pushers is cut down to the newest event of each room, and given up after a day. A pusher that fails alone is
//     tried again after a pause that grows to an hour. Retry-After is heeded.
//   - A gateway refuses one notification, with a 4xx status other than 429: after three attempts the notification is dropped, and the
//     next one is sent.
//   - A gateway rejects a pushkey: its pusher is deleted.
//   - A worker is killed: the next owner reads its part of the log again from the cursor, which is stored after each run of entries
//     that notifies somebody, and sends what has a row. What was on its way, or in a run that was not stored yet, arrives twice.
//   - NATS is away: rows are found by looking, every few seconds. New pushers are noticed within ten minutes at the latest.
//   - PostgreSQL is away: nothing is evaluated; cursors stay where they are.
package push
