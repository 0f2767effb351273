// Package roomdb reads rooms from PostgreSQL: rooms, events, timelines, state, auth chains and the log.
//
// Only the owner of a partition writes these tables; everybody may read them. Events and snapshots never change once
// they are written, but for redaction, so they are cached by their numeric ids. What can change (a room's row, a
// timeline's end) is read anew each time. A redaction is announced on the bus (Redacted), which each process hears
// ([DB.Run]); what was read while an announcement came is not kept. Entries live a minute at most, so that a lost
// announcement does not keep redacted content for longer than that.
package roomdb
