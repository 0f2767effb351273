// Package roomdb reads rooms from PostgreSQL: rooms, events, timelines, state, auth chains and the log.
//
// Only the owner of a partition writes these tables; every role may read them. Events and snapshots never change after they
// were written, except by redaction, so they are cached by their numeric ids. Everything that can change (a room's row, the
// end of a timeline) is read each time. Redactions are announced on the bus (Redacted), and each process listens ([DB.Run]);
// an event that was being read when an announcement arrived is not cached. Entries live for a minute at most, so that a lost
// announcement keeps redacted content no longer than that.
package roomdb
