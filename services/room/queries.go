package room

import (
	"fmt"

	"hanse/pkg/roomdb"
	"hanse/pkg/roomdb/eventsql"
)

// The statements of an append, in the order in which they are sent. They travel in one batch under one Sync, which
// PostgreSQL runs as one transaction; those that have nothing to do are left out, so their number is fixed, whatever
// the number of events. Arrays of arrays do not survive unnest: the inner ones travel as text.
const (
	// sqlFence is fence, lock and position in one (law 3). It aborts the transaction with SQLSTATE HF001 unless every
	// partition of the batch is held at the expected epoch and stands at the expected head.
	sqlFence = `
WITH held AS (
	UPDATE partition p
	SET head = p.head + b.n, nid = greatest(p.nid, b.nid), projected = greatest(p.projected, b.projected)
	FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
		AS b(part, epoch, head, n, nid, projected)
	WHERE p.part = b.part AND p.epoch = b.epoch AND p.head = b.head
	RETURNING 1)
SELECT hanse_fence(count(*), cardinality($1::int[])) FROM held`

	sqlInsertRoom = `
INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth, first_ord, last_pos, notify_seq,
	published, joined, invited, joined_local, full_pos, active_ts, bump_ts)
SELECT part, room_nid, room_id, version, sid, ext::bigint[], depth, first_ord, last_pos, notify_seq,
	published, joined, invited, joined_local, full_pos, active_ts, bump_ts
FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
	$9::bigint[], $10::bigint[], $11::bool[], $12::int[], $13::int[], $14::int[], $15::bigint[],
	$16::bigint[], $17::bigint[])
	AS b(part, room_nid, room_id, version, sid, ext, depth, first_ord, last_pos, notify_seq,
		published, joined, invited, joined_local, full_pos, active_ts, bump_ts)`

	// The sub-selects hide from the planner how long the arrays are. Otherwise it takes a plan for one row to be so much
	// cheaper than one for any that it plans the statement anew for each append: longer than it takes to run.
	sqlUpdateRoom = `
UPDATE room r
SET sid = b.sid, extremities = b.ext::bigint[], depth = b.depth, first_ord = b.first_ord, last_pos = b.last_pos,
	notify_seq = b.notify_seq, joined = b.joined, invited = b.invited, joined_local = b.joined_local, full_pos = b.full_pos,
	active_ts = b.active_ts, bump_ts = b.bump_ts
FROM unnest((SELECT $1::int[]), (SELECT $2::bigint[]), $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
	$8::bigint[], $9::int[], $10::int[], $11::int[], $12::bigint[], $13::bigint[], $14::bigint[])
	AS b(part, room_nid, sid, ext, depth, first_ord, last_pos, notify_seq, joined, invited, joined_local, full_pos, active_ts, bump_ts)
WHERE r.part = b.part AND r.room_nid = b.room_nid`

	// sqlDeleteRoom removes a room that no local user ever was in, after its events.
	sqlDeleteRoom = `
DELETE FROM room r USING unnest($1::int[], $2::bigint[]) AS b(part, room_nid)
WHERE r.part = b.part AND r.room_nid = b.room_nid AND cardinality(r.extremities) = 0`

	sqlPublishRoom = `
UPDATE room r SET published = b.published
FROM unnest($1::int[], $2::bigint[], $3::bool[]) AS b(part, room_nid, published)
WHERE r.part = b.part AND r.room_nid = b.room_nid`

	sqlInsertLog = `
INSERT INTO log (part, pos, room_nid, kind, event_nid, current_before, current_after, body)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bigint[], $7::bigint[],
	$8::bytea[])`

	sqlInsertAwaited = `
INSERT INTO awaited_redaction (part, room_nid, event_id, redaction)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[])
ON CONFLICT DO NOTHING`

	sqlInsertMentions = `
INSERT INTO mention (part, room_nid, user_id, ord, thread_id)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::text[])
ON CONFLICT DO NOTHING`

	sqlServers = `
INSERT INTO room_server (part, room_nid, server, joined)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::int[])
ON CONFLICT (part, room_nid, server) DO UPDATE SET joined = room_server.joined + excluded.joined`

	sqlInsertMissing = `
INSERT INTO missing_prev (part, room_nid, event_id, child, hole)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[])
ON CONFLICT (part, room_nid, event_id, child) DO UPDATE SET hole = coalesce(missing_prev.hole, excluded.hole)`

	sqlDeleteMissing = `
DELETE FROM missing_prev m
USING unnest($1::int[], $2::bigint[], $3::text[]) AS b(part, room_nid, event_id)
WHERE m.part = b.part AND m.room_nid = b.room_nid AND m.event_id = b.event_id`

	sqlReceipts = `
INSERT INTO receipt (part, room_nid, user_id, type, thread_id, event_id, ord, notify_seq, ts, pos)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
	$8::bigint[], $9::bigint[], $10::bigint[])
ON CONFLICT (part, room_nid, user_id, type, thread_id) DO UPDATE
SET event_id = excluded.event_id, ord = excluded.ord, notify_seq = excluded.notify_seq, ts = excluded.ts,
	pos = excluded.pos`
)

// Reads and writes outside of an append.
const (
	// sqlProject writes the membership index of one shard's users and raises their streams: one statement, one
	// transaction. A row is written only by a newer position, so that a replay changes nothing; the stream is raised
	// all the same, which is harmless.
	sqlProject = `
WITH b AS (
	SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::text[], $7::text[],
		$8::bigint[], $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bytea[])
		AS b(part, user_id, room_id, room_part, room_nid, room_version, membership, event_nid, event_id, sender, pos,
			join_pos, stripped)),
raised AS (
	INSERT INTO user_stream AS s (part, user_id, seq)
	SELECT DISTINCT part, user_id, 1 FROM b ORDER BY part, user_id
	ON CONFLICT (part, user_id) DO UPDATE SET seq = s.seq + 1
	RETURNING part, user_id, seq),
written AS (
	INSERT INTO membership AS m (part, user_id, room_id, room_part, room_nid, room_version, membership, event_nid,
		event_id, sender, pos, join_pos, stripped, seq, join_seq)
	SELECT b.part, b.user_id, b.room_id, b.room_part, b.room_nid, b.room_version, b.membership, b.event_nid,
		b.event_id, b.sender, b.pos, b.join_pos, b.stripped, r.seq, CASE WHEN b.join_pos > 0 THEN r.seq ELSE 0 END
	FROM b JOIN raised r USING (part, user_id)
	ON CONFLICT (part, user_id, room_id) DO UPDATE
	SET room_part = excluded.room_part, room_nid = excluded.room_nid, room_version = excluded.room_version,
		membership = excluded.membership, event_nid = excluded.event_nid, event_id = excluded.event_id,
		sender = excluded.sender, pos = excluded.pos, stripped = excluded.stripped, event = NULL, seq = excluded.seq,
		join_pos = CASE WHEN excluded.join_pos > 0 THEN excluded.join_pos ELSE m.join_pos END,
		join_seq = CASE WHEN excluded.join_pos > 0 THEN excluded.seq ELSE m.join_seq END,
		forgotten = m.forgotten AND excluded.membership IN ('leave', 'ban')
	WHERE m.pos < excluded.pos)
SELECT part, user_id, seq FROM raised`

	// sqlProjectUnjoined writes the row of a user in a room that no local user is in, with its event: an invite from elsewhere,
	// its refusal. It has no position of its own, only that of the partition's head at the time. The user's push worker is told.
	sqlProjectUnjoined = `
WITH raised AS (
	INSERT INTO user_stream AS s (part, user_id, seq) VALUES ($1, $2, 1)
	ON CONFLICT (part, user_id) DO UPDATE SET seq = s.seq + 1
	RETURNING seq),
written AS (
	INSERT INTO membership AS m (part, user_id, room_id, room_part, room_nid, room_version, membership, event_nid,
		event_id, sender, pos, stripped, event, via, seq)
	SELECT $1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11, $12, $13, seq FROM raised
	ON CONFLICT (part, user_id, room_id) DO UPDATE
	SET room_part = excluded.room_part, room_nid = excluded.room_nid, room_version = excluded.room_version,
		membership = excluded.membership, event_nid = excluded.event_nid, event_id = excluded.event_id,
		sender = excluded.sender, pos = excluded.pos, stripped = excluded.stripped, event = excluded.event,
		via = excluded.via, seq = excluded.seq, forgotten = m.forgotten AND excluded.membership IN ('leave', 'ban')
	WHERE m.pos <= excluded.pos),
told AS (
	INSERT INTO push_invite AS p (part, user_id, room_id, event_id)
	SELECT $1, $2, $3, $8 WHERE EXISTS (SELECT FROM pusher WHERE part = $1 AND user_id = $2 AND enabled AND kind = 'http')
	ON CONFLICT (part, user_id, room_id) DO UPDATE SET event_id = excluded.event_id
	RETURNING true)
SELECT seq, EXISTS (SELECT FROM told) FROM raised`

	sqlProjected = `UPDATE partition SET projected = greatest(projected, $3) WHERE part = $1 AND epoch = $2`

	// sqlSince finds the oldest event that was no history when it came, and the memberships at which holes end: one of these is
	// the newest join of a local user.
	sqlSince = `
(SELECT depth, NULL AS member FROM event WHERE part = $1 AND room_nid = $2 AND ord > 0 ORDER BY ord LIMIT 1)
UNION ALL
(SELECT e.depth, e.state_key FROM (SELECT DISTINCT hole FROM missing_prev WHERE part = $1 AND room_nid = $2 AND hole > 0 ORDER BY hole DESC LIMIT 100) m
JOIN event e ON e.part = $1 AND e.room_nid = $2 AND e.ord = m.hole
WHERE e.type = 'm.room.member' AND e.sender = e.state_key)`

	sqlMembership = `
SELECT membership, event_nid, event_id, sender, room_version, stripped, event, via FROM membership WHERE part = $1 AND user_id = $2 AND room_id = $3`

	// sqlBackwards finds the newest events that a hole lacks: those that the deepest events name.
	sqlBackwards = `
SELECT m.event_id FROM missing_prev m
JOIN event e ON e.part = m.part AND e.event_nid = m.child
WHERE m.part = $1 AND m.room_nid = $2 AND m.hole = $4
GROUP BY m.event_id ORDER BY max(e.depth) DESC LIMIT $3`

	// sqlReceiptsOf has the places of events: those of what fills a hole are finer than log positions.
	sqlReceiptsOf = `
SELECT r.user_id, r.type, r.thread_id, coalesce(e.ord, r.ord) FROM receipt r
LEFT JOIN event e ON e.part = r.part AND e.event_id = r.event_id
WHERE r.part = $1 AND r.room_nid = $2 AND r.user_id = ANY($3)`
)

var (
	// sqlReplay reads the changes of state in the log that the membership index may lack.
	sqlReplay = fmt.Sprintf(`
SELECT l.pos, l.room_nid, l.kind, r.room_id, r.version, l.body, coalesce(e.event_id, '')
FROM log l
LEFT JOIN event e ON e.part = l.part AND e.event_nid = l.event_nid
JOIN room r ON r.part = l.part AND r.room_nid = l.room_nid
WHERE l.part = $1 AND l.pos > $2 AND l.kind IN (%d, %d) AND l.current_before <> l.current_after
ORDER BY l.pos LIMIT $3`, roomdb.KindEvent, roomdb.KindFilled)

	// sqlAwaited says of events whether they are among those that others name and we lack, whether one of these was neither
	// rejected nor soft-failed, which is the oldest hole that they belong into, and which redactions wait for them.
	sqlAwaited = `
SELECT a.id, EXISTS (SELECT 1 FROM missing_prev WHERE part = $1 AND room_nid = $2 AND event_id = a.id),
	EXISTS (SELECT 1 FROM missing_prev m JOIN event e ON e.part = m.part AND e.event_nid = m.child
		WHERE m.part = $1 AND m.room_nid = $2 AND m.event_id = a.id AND ` + eventsql.Accepted + `),
	coalesce((SELECT min(hole) FROM missing_prev WHERE part = $1 AND room_nid = $2 AND event_id = a.id), 0),
	ARRAY(SELECT redaction FROM awaited_redaction WHERE part = $1 AND room_nid = $2 AND event_id = a.id ORDER BY redaction LIMIT 1000)
FROM unnest($3::text[]) AS a(id)`
)
