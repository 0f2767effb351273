// Package appservice is the role that tells application services what happens (application service API, "Pushing events").
//
// # Model
//
// The key of a service is its id. Package follow gives the partition of that id to one worker, which alone sends to the service. A
// partition without services is nobody's, and a worker without services reads no log.
//
// The worker reads the whole log, and finds for each entry who wants it (interest.go): by the sender, by the user whose membership
// changes, and by what is remembered of the room, which the log itself keeps up to date. What a service wants waits in a short queue
// of references (stream.go). Its loop cuts transactions from that queue, one at a time. A transaction is stored before it is sent:
// whoever repeats it, after a failure or in place of a killed worker, sends the same bytes under the same id.
//
// A service that fails or is slower than its queue loses the queue. appservice_stream has its position in each log partition, and
// what it missed is read from the log once it takes transactions again (missed.go): one that was away for a day left nothing behind
// but positions and one transaction. A service that keeps up has all up to the cursors of its partition, and costs no row.
//
// # Invariants
//
// Each event that a service wants is in one transaction, and the events of a room are in the order of the log. One transaction is on
// its way to a service at a time. Services that have not answered well lately share a quarter of all requests (slots.go). An event
// that nobody wants costs some look-ups in memory, and nothing for each member of its room.
//
// # Failures
//
//   - A service fails: its transaction is repeated after a pause that grows to five minutes, and at once when the service shows itself
//     (bus.WakeAppservice). Nothing is ever dropped or passed over.
//   - A worker is killed: the next owner repeats the stored transaction, and reads the log from the cursors.
//   - PostgreSQL is away: nothing is sent that is not stored, and cursors stay where they are.
//   - NATS is away: the log is read from PostgreSQL (package bus), and a service that fails is asked again when its pause ends.
//   - An event cannot be read: it becomes a dead letter.
package appservice
