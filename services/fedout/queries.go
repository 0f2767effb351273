package fedout

import (
	"fmt"

	"hanse/pkg/roomdb"
)

// The queries of the sender. Rows of destinations lie in the partition of the destination's name (part), what is read
// of rooms in that of the room (log_part).
const (
	sqlBehind = `SELECT server_name, log_part, pos FROM destination_behind WHERE part = $1`
	sqlExtras = `SELECT server_name, log_part, room_nid FROM destination_room WHERE part = $1`
	// sqlEDUServers walks from server to server by the primary key, however many rows each has.
	sqlEDUServers = `
WITH RECURSIVE s AS (
    (SELECT server_name FROM fed_edu WHERE part = $1 ORDER BY server_name LIMIT 1)
    UNION ALL
    SELECT (SELECT e.server_name FROM fed_edu e WHERE e.part = $1 AND e.server_name > s.server_name ORDER BY e.server_name LIMIT 1)
    FROM s WHERE s.server_name IS NOT NULL
) SELECT server_name FROM s WHERE server_name IS NOT NULL`

	// sqlToLook says of which partitions a look finds anything.
	sqlToLook = `
SELECT p FROM unnest($1::integer[]) p WHERE EXISTS (SELECT FROM destination WHERE part = p AND failures > 0)
    OR EXISTS (SELECT FROM destination_behind WHERE part = p) OR EXISTS (SELECT FROM destination_room WHERE part = p)
    OR EXISTS (SELECT FROM fed_edu WHERE part = p)`

	sqlPutBehind = `
INSERT INTO destination_behind (part, server_name, log_part, pos)
SELECT $1, u.server, u.log_part, u.pos FROM unnest($2::text[], $3::int[], $4::bigint[]) AS u (server, log_part, pos)
ON CONFLICT (part, server_name, log_part) DO UPDATE SET pos = excluded.pos`
	sqlDropBehind = `
DELETE FROM destination_behind b USING unnest($2::text[], $3::int[]) AS u (server, log_part)
WHERE b.part = $1 AND b.server_name = u.server AND b.log_part = u.log_part`
	sqlPutExtras = `
INSERT INTO destination_room (part, server_name, log_part, room_nid)
SELECT $1, u.server, u.log_part, u.room FROM unnest($2::text[], $3::int[], $4::bigint[]) AS u (server, log_part, room)
ON CONFLICT DO NOTHING`
	sqlDropExtras = `
DELETE FROM destination_room b USING unnest($2::text[], $3::int[]) AS u (server, log_part)
WHERE b.part = $1 AND b.server_name = u.server AND b.log_part = u.log_part`

	sqlRefused     = `SELECT server_name, item FROM destination_refused WHERE part = $1`
	sqlDropRefused = `DELETE FROM destination_refused WHERE part = $1 AND server_name = ANY($2)`
	sqlPutRefused  = `
INSERT INTO destination_refused (part, server_name, item)
SELECT $1, u.server, u.item FROM unnest($2::text[], $3::bytea[]) AS u (server, item)
ON CONFLICT DO NOTHING`

	sqlEDUs    = `SELECT id, origin, edu_type, dedup_key, content FROM fed_edu WHERE part = $1 AND server_name = $2 ORDER BY id LIMIT $3`
	sqlDropEDU = `DELETE FROM fed_edu WHERE part = $1 AND server_name = $2 AND id = ANY($3)`

	// sqlServersAt reads, in one snapshot, how many members each server has in a room now, and the membership events
	// behind a position: their effect is taken back.
	sqlServersAt = `
SELECT s.server, s.joined, NULL::bytea FROM room_server s WHERE s.part = $1 AND s.room_nid = $2
UNION ALL
SELECT e.state_key, 0, l.body FROM event e JOIN log l ON l.part = e.part AND l.pos = e.ord
WHERE e.part = $1 AND e.room_nid = $2 AND e.ord > $3 AND e.type = 'm.room.member'`

	// sqlMissedRooms finds the rooms with something behind a position that a server is in, or must hear of, with the
	// number of events up to $4, counted as far as it matters.
	sqlMissedRooms = `
SELECT r.room_nid, coalesce(s.joined, 0),
    (SELECT count(*) FROM (SELECT FROM event e WHERE e.part = $1 AND e.room_nid = r.room_nid AND e.ord > $3 AND e.ord <= $4 LIMIT $5) AS n)
FROM room r LEFT JOIN room_server s ON s.part = r.part AND s.room_nid = r.room_nid AND s.server = $2
WHERE r.part = $1 AND r.last_pos > $3
  AND (s.joined > 0 OR r.room_nid = ANY($6))`
	// sqlMoves reads the membership events of a server's users in some rooms.
	sqlMoves = `
SELECT e.room_nid, l.body FROM event e JOIN log l ON l.part = e.part AND l.pos = e.ord
WHERE e.part = $1 AND e.room_nid = ANY($2) AND e.ord > $3 AND e.type = 'm.room.member' AND e.state_key LIKE '%:' || $4`
	// sqlMissedEvents reads the next events of some rooms, in the order of the log.
	sqlMissedEvents = `
SELECT m.pos, m.room_nid, m.body, m.json, m.event_id, m.redacted FROM unnest($2::bigint[]) AS r (nid) CROSS JOIN LATERAL (
    SELECT e.ord AS pos, e.room_nid, l.body, e.json, e.event_id, coalesce(e.redacted_by, 0) <> 0 AS redacted
    FROM event e JOIN log l ON l.part = e.part AND l.pos = e.ord
    WHERE e.part = $1 AND e.room_nid = r.nid AND e.ord > $3 AND e.ord <= $4 ORDER BY e.ord LIMIT $5
) AS m ORDER BY m.pos LIMIT $5`
	// sqlNewest reads the newest events of a room, newest first.
	sqlNewest = `
SELECT e.ord, e.room_nid, l.body, e.json, e.event_id, coalesce(e.redacted_by, 0) <> 0
FROM event e JOIN log l ON l.part = e.part AND l.pos = e.ord
WHERE e.part = $1 AND e.room_nid = $2 AND e.ord > $3 AND e.ord <= $4 ORDER BY e.ord DESC LIMIT 200`
	// sqlFilledRooms finds rooms whose members came between two positions, after they had been joined without.
	sqlFilledRooms    = `SELECT room_nid FROM room WHERE part = $1 AND room_nid = ANY($2) AND full_pos > $3 AND full_pos <= $4`
	sqlMissedReceipts = `
SELECT m.room_id, r.user_id, r.thread_id, r.event_id, r.ts FROM receipt r JOIN room m ON m.part = r.part AND m.room_nid = r.room_nid
WHERE r.part = $1 AND r.room_nid = ANY($2) AND r.pos > $3 AND r.pos <= $4 AND r.type = 'm.read' ORDER BY r.pos DESC LIMIT $5`
)

var sqlMissedDevices = fmt.Sprintf(`
SELECT l.body FROM log l WHERE l.part = $1 AND l.room_nid = ANY($2) AND l.kind = %d AND l.pos > $3 AND l.pos <= $4 ORDER BY l.pos`, roomdb.KindDeviceChange)
