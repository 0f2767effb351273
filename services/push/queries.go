package push

// The queries of the role. What waits for a pusher lies in the user's partition.
const (
	// sqlWith finds those of some users who have pushers that are to be told anything.
	sqlWith = `
SELECT DISTINCT p.user_id FROM unnest($1::int[], $2::text[]) AS u (part, user_id) JOIN pusher p ON p.part = u.part AND p.user_id = u.user_id
WHERE p.enabled AND p.kind = 'http'`

	// sqlRules reads the account data that says what notifies users, if it is newer than what is known.
	sqlRules = `
SELECT a.user_id, a.type, a.content, a.deleted, a.seq FROM unnest($1::int[], $2::text[], $3::bigint[]) AS u (part, user_id, known)
JOIN account_data a ON a.part = u.part AND a.user_id = u.user_id AND a.room_id = '' AND a.type = ANY($4) AND a.seq > u.known`

	// sqlQueue adds events to what waits. Of a pusher that fails, older ones of the same room go: there will be one push a room.
	sqlQueue = `
WITH n AS (
    SELECT * FROM unnest($1::int[], $2::text[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bytea[])
        AS n (part, user_id, room_part, room_nid, room_id, event_id, event_nid, pos, tweaks)
), t AS (
    SELECT n.*, p.app_id, p.pushkey, p.failing_since > 0 AS failing FROM n JOIN pusher p ON p.part = n.part AND p.user_id = n.user_id
    WHERE p.enabled AND p.kind = 'http'
), gone AS (
    DELETE FROM push_pending q USING t WHERE t.failing AND q.part = t.part AND q.user_id = t.user_id AND q.app_id = t.app_id
        AND q.pushkey = t.pushkey AND q.room_part = t.room_part AND q.room_id = t.room_id AND q.pos < t.pos
    RETURNING q.part
), unread AS (
    INSERT INTO push_unread AS r (part, user_id, room_part, room_nid, room_id, pos)
    SELECT part, user_id, room_part, room_nid, min(room_id), max(pos) FROM t GROUP BY part, user_id, room_part, room_nid
    ON CONFLICT (part, user_id, room_part, room_nid) DO UPDATE SET pos = excluded.pos WHERE r.pos < excluded.pos
), added AS (
    INSERT INTO push_pending (part, user_id, app_id, pushkey, room_part, pos, room_id, event_id, event_nid, tweaks, created_ts)
    SELECT part, user_id, app_id, pushkey, room_part, pos, room_id, event_id, event_nid, tweaks, $10 FROM t ON CONFLICT DO NOTHING
) SELECT count(*) FROM gone`

	// sqlQueueBadge lets the pushers of some users be told their count, if there can be another one. A row that waits gets a later
	// time, by which who has read the earlier one knows that it must stay.
	sqlQueueBadge = `
INSERT INTO push_pending AS q (part, user_id, app_id, pushkey, room_part, pos, created_ts)
SELECT p.part, p.user_id, p.app_id, p.pushkey, -1, 0, $3 FROM unnest($1::int[], $2::text[]) AS u (part, user_id)
JOIN pusher p ON p.part = u.part AND p.user_id = u.user_id
WHERE p.enabled AND p.kind = 'http' AND EXISTS (SELECT FROM push_unread r WHERE r.part = p.part AND r.user_id = p.user_id)
ON CONFLICT (part, user_id, app_id, pushkey, room_part, pos) DO UPDATE SET created_ts = greatest(excluded.created_ts, q.created_ts + 1)
RETURNING q.part, q.user_id`

	// sqlWaiting walks from pusher to pusher by the primary key, however much waits for each, and returns the users of those that may
	// be tried now.
	sqlWaiting = `
WITH RECURSIVE k AS (
    (SELECT user_id, app_id, pushkey FROM push_pending WHERE part = $1 ORDER BY user_id, app_id, pushkey LIMIT 1)
    UNION ALL
    SELECT n.* FROM k CROSS JOIN LATERAL (SELECT q.user_id, q.app_id, q.pushkey FROM push_pending q
        WHERE q.part = $1 AND (q.user_id, q.app_id, q.pushkey) > (k.user_id, k.app_id, k.pushkey) ORDER BY q.user_id, q.app_id, q.pushkey LIMIT 1) AS n
) SELECT DISTINCT k.user_id FROM k JOIN pusher p ON p.part = $1 AND p.user_id = k.user_id AND p.app_id = k.app_id AND p.pushkey = k.pushkey
WHERE p.next_try <= $2`

	// sqlOrphans deletes what waits for pushers that are not there any more, or turned off.
	sqlOrphans = `
DELETE FROM push_pending q WHERE q.part = $1 AND NOT EXISTS (SELECT FROM pusher p WHERE p.part = q.part AND p.user_id = q.user_id
    AND p.app_id = q.app_id AND p.pushkey = q.pushkey AND p.enabled)`

	// sqlDue reads the pushers of some users for which something waits and that may be tried now.
	sqlDue = `
SELECT p.user_id, p.app_id, p.pushkey, p.data, p.created_ts FROM pusher p
WHERE p.part = $1 AND p.user_id = ANY($2) AND p.next_try <= $3 AND p.enabled AND p.kind = 'http' AND EXISTS (SELECT FROM push_pending q
    WHERE q.part = p.part AND q.user_id = p.user_id AND q.app_id = p.app_id AND q.pushkey = p.pushkey)
LIMIT $4`
	// sqlItems reads what waits for a pusher, the oldest first.
	sqlItems = `
SELECT q.room_part, q.pos, q.room_id, q.event_id, q.event_nid, q.tweaks, q.created_ts, p.badge, p.failures
FROM push_pending q JOIN pusher p ON p.part = q.part AND p.user_id = q.user_id AND p.app_id = q.app_id AND p.pushkey = q.pushkey
WHERE q.part = $1 AND q.user_id = $2 AND q.app_id = $3 AND q.pushkey = $4 AND p.next_try <= $5 AND p.enabled
ORDER BY q.created_ts, q.room_part, q.pos LIMIT $6`

	sqlSent = `DELETE FROM push_pending WHERE part = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4 AND room_part = $5 AND pos = $6 AND created_ts <= $7`
	// sqlTold also ends the failing of a pusher that only waited for its gateway: it has no failures of its own.
	sqlTold = `
UPDATE pusher SET badge = $5, failures = 0, failing_since = 0, next_try = 0
WHERE part = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4 AND (badge <> $5 OR failures > 0 OR failing_since > 0)`
	sqlFailed = `
UPDATE pusher SET failures = failures + $5, failing_since = CASE failing_since WHEN 0 THEN $6 ELSE failing_since END, next_try = $7
WHERE part = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4`
	// sqlCollapse leaves the newest event of each room, and nothing that is too old.
	sqlCollapse = `
DELETE FROM push_pending q WHERE q.part = $1 AND q.user_id = $2 AND q.app_id = $3 AND q.pushkey = $4 AND q.room_part >= 0
    AND (q.created_ts < $5 OR EXISTS (SELECT FROM push_pending n WHERE n.part = q.part AND n.user_id = q.user_id AND n.app_id = q.app_id
        AND n.pushkey = q.pushkey AND n.room_part = q.room_part AND n.room_id = q.room_id AND n.pos > q.pos))`
	sqlReject     = `DELETE FROM pusher WHERE part = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4`
	sqlRejectRows = `DELETE FROM push_pending WHERE part = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4`

	// sqlInvites reads memberships in rooms that this server is not in, of which nobody was told; of all users if $3 is set.
	sqlInvites = `
SELECT i.user_id, i.room_id, i.event_id, m.room_part, coalesce(m.membership, ''), coalesce(m.event_id, ''), coalesce(m.room_version, ''), m.event, m.stripped
FROM push_invite i LEFT JOIN membership m ON m.part = i.part AND m.user_id = i.user_id AND m.room_id = i.room_id
WHERE i.part = $1 AND ($3 OR i.user_id = ANY($2)) LIMIT $4`
	sqlInviteOf = `
SELECT room_part, membership, event_id, room_version, event, stripped FROM membership
WHERE part = $1 AND user_id = $2 AND room_id = $3 AND membership = 'invite' AND event_nid = 0`
	sqlInviteTaken = `DELETE FROM push_invite WHERE part = $1 AND user_id = $2 AND room_id = $3 AND event_id = $4`

	// sqlUnread reads the rooms that may count, with what the user is in them now.
	sqlUnread = `
SELECT u.room_part, u.room_nid, u.room_id, u.pos, coalesce(m.membership, ''), coalesce(m.join_pos, 0)
FROM push_unread u LEFT JOIN membership m ON m.part = u.part AND m.user_id = u.user_id AND m.room_id = u.room_id
WHERE u.part = $1 AND u.user_id = $2`
	// sqlRead forgets rooms in which nothing was unread, unless something came since.
	sqlRead = `
DELETE FROM push_unread u USING unnest($3::int[], $4::bigint[], $5::bigint[]) AS r (part, nid, pos)
WHERE u.part = $1 AND u.user_id = $2 AND u.room_part = r.part AND u.room_nid = r.nid AND u.pos <= r.pos`
)
