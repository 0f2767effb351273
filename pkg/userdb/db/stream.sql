-- The user stream and what travels on it.

-- name: Raise :one
INSERT INTO user_stream (part, user_id, seq) VALUES ($1, $2, 1)
ON CONFLICT (part, user_id) DO UPDATE SET seq = user_stream.seq + 1
RETURNING seq;

-- name: Seq :one
SELECT coalesce((SELECT seq FROM user_stream WHERE part = $1 AND user_id = $2), 0)::bigint;

-- name: Seqs :many
SELECT part, user_id, seq FROM user_stream
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id = ANY(sqlc.arg(user_ids)::text[]);

-- name: PutAccountData :one
WITH s AS (
    INSERT INTO user_stream (part, user_id, seq) VALUES ($1, $2, 1)
    ON CONFLICT (part, user_id) DO UPDATE SET seq = user_stream.seq + 1
    RETURNING seq
)
INSERT INTO account_data (part, user_id, room_id, type, content, seq)
SELECT $1, $2, $3, $4, $5, s.seq FROM s
ON CONFLICT (part, user_id, room_id, type) DO UPDATE SET content = excluded.content, deleted = false, seq = excluded.seq
RETURNING seq;

-- name: SetAccountData :exec
INSERT INTO account_data (part, user_id, room_id, type, content, seq) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (part, user_id, room_id, type) DO UPDATE SET content = excluded.content, deleted = false, seq = excluded.seq;

-- name: DeleteAccountData :exec
UPDATE account_data SET content = '{}', deleted = true, seq = $5
WHERE part = $1 AND user_id = $2 AND room_id = $3 AND type = $4 AND NOT deleted;

-- name: DeleteGlobalAccountData :exec
UPDATE account_data SET content = '{}', deleted = true, seq = sqlc.arg(seq)
WHERE part = $1 AND user_id = $2 AND room_id = '' AND type = ANY(sqlc.arg(types)::text[]) AND NOT deleted;

-- name: AccountData :one
SELECT content FROM account_data
WHERE part = $1 AND user_id = $2 AND room_id = $3 AND type = $4 AND NOT deleted;

-- name: AccountDataOf :many
SELECT type, content FROM account_data
WHERE part = $1 AND user_id = $2 AND room_id = '' AND type = ANY(sqlc.arg(types)::text[]) AND NOT deleted;

-- name: AccountDataSince :many
SELECT room_id, type, content, deleted, seq FROM account_data
WHERE part = $1 AND user_id = $2 AND seq > sqlc.arg(after)::bigint AND seq <= sqlc.arg(up_to)::bigint
ORDER BY seq, room_id, type;

-- name: DeleteAllAccountData :exec
DELETE FROM account_data WHERE part = $1 AND user_id = $2;

-- name: AddToDevice :many
WITH m AS (
    SELECT unnest(sqlc.arg(parts)::int[]) AS part, unnest(sqlc.arg(user_ids)::text[]) AS user_id,
           unnest(sqlc.arg(device_ids)::text[]) AS device_id, unnest(sqlc.arg(senders)::text[]) AS sender,
           unnest(sqlc.arg(types)::text[]) AS type, unnest(sqlc.arg(contents)::bytea[]) AS content,
           unnest(sqlc.arg(ns)::int[]) AS n
), d AS (
    SELECT m.part, m.user_id, d.device_id, m.n, m.sender, m.type, m.content
    FROM m JOIN device d ON d.part = m.part AND d.user_id = m.user_id AND (d.device_id = m.device_id OR m.device_id = '*')
), s AS (
    INSERT INTO user_stream (part, user_id, seq) SELECT DISTINCT d.part, d.user_id, 1 FROM d ORDER BY 1, 2
    ON CONFLICT (part, user_id) DO UPDATE SET seq = user_stream.seq + 1
    RETURNING part, user_id, seq
), i AS (
    INSERT INTO to_device (part, user_id, device_id, seq, n, sender, type, content)
    SELECT d.part, d.user_id, d.device_id, s.seq, d.n, d.sender, d.type, d.content
    FROM d JOIN s ON s.part = d.part AND s.user_id = d.user_id
)
SELECT user_id, seq FROM s;

-- The content is null of messages with which it would be more bytes than asked for.
-- name: ToDevice :many
SELECT seq, n, sender, type, (CASE WHEN total <= sqlc.arg(bytes)::bigint THEN content END)::bytea AS content FROM (
    SELECT seq, n, sender, type, content, sum(octet_length(content)) OVER (ORDER BY seq, n) AS total FROM to_device
    WHERE part = $1 AND user_id = $2 AND device_id = $3 AND seq > sqlc.arg(after)::bigint AND seq <= sqlc.arg(up_to)::bigint
    ORDER BY seq, n LIMIT sqlc.arg(max)::int) m
ORDER BY seq, n;

-- name: AckToDevice :execrows
DELETE FROM to_device WHERE part = $1 AND user_id = $2 AND device_id = $3 AND seq <= sqlc.arg(up_to)::bigint;

-- name: HasUserTxn :one
SELECT EXISTS (SELECT FROM user_txn WHERE part = $1 AND user_id = $2 AND device_id = $3 AND endpoint = $4 AND txn_id = $5);

-- name: AddUserTxn :execrows
INSERT INTO user_txn (part, user_id, device_id, endpoint, txn_id, created_ts) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING;

-- name: PruneUserTxns :execrows
DELETE FROM user_txn WHERE part = ANY(sqlc.arg(parts)::int[]) AND created_ts < sqlc.arg(before)::bigint;

-- name: AddFilter :one
WITH old AS (
    SELECT f.filter_id FROM filter f WHERE f.part = $1 AND f.user_id = $2 AND f.hash = $3
), new AS (
    INSERT INTO filter (part, user_id, filter_id, hash, content)
    SELECT $1, $2, coalesce((SELECT max(filter_id) + 1 FROM filter f WHERE f.part = $1 AND f.user_id = $2), 0), $3, $4
    WHERE NOT EXISTS (SELECT FROM old)
    RETURNING filter.filter_id
)
SELECT filter_id FROM old UNION ALL SELECT filter_id FROM new;

-- name: Filter :one
SELECT content FROM filter WHERE part = $1 AND user_id = $2 AND filter_id = $3;

-- name: Memberships :many
SELECT * FROM membership WHERE part = $1 AND user_id = $2;

-- name: MembershipsSince :many
SELECT * FROM membership WHERE part = $1 AND user_id = $2 AND seq > sqlc.arg(after)::bigint ORDER BY seq;

-- name: Membership :one
SELECT * FROM membership WHERE part = $1 AND user_id = $2 AND room_id = $3;

-- name: JoinedRooms :many
SELECT room_id, room_part, room_nid, room_version FROM membership
WHERE part = $1 AND user_id = $2 AND membership = 'join' ORDER BY room_part, room_id;

-- name: RoomsJoinedBefore :many
SELECT m.room_id, m.room_part, m.room_nid FROM membership m
WHERE m.part = $1 AND m.user_id = $2 AND m.membership = 'join' AND NOT (m.room_part = sqlc.arg(room_part) AND m.room_nid = sqlc.arg(room_nid))
  AND m.join_seq < coalesce((SELECT r.join_seq FROM membership r WHERE r.part = $1 AND r.user_id = $2 AND r.membership = 'join'
        AND r.room_part = sqlc.arg(room_part) AND r.room_nid = sqlc.arg(room_nid)), 9223372036854775807);

-- name: JoinedRoomsOf :many
SELECT user_id, room_id, room_part, room_nid FROM membership
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id = ANY(sqlc.arg(user_ids)::text[]) AND membership = 'join';

-- name: Forget :one
WITH s AS (
    INSERT INTO user_stream (part, user_id, seq) VALUES ($1, $2, 1)
    ON CONFLICT (part, user_id) DO UPDATE SET seq = user_stream.seq + 1
    RETURNING seq
)
UPDATE membership m SET forgotten = true, seq = s.seq FROM s
WHERE m.part = $1 AND m.user_id = $2 AND m.room_id = $3 AND m.membership IN ('leave', 'ban')
RETURNING m.seq;

-- name: MutedTimes :many
SELECT seq, since, until FROM muted_time WHERE part = $1 AND user_id = $2 ORDER BY seq;

-- name: BeginMute :exec
INSERT INTO muted_time (part, user_id, seq, since) VALUES ($1, $2, $3, $4);

-- name: EndMute :exec
UPDATE muted_time SET until = $3 WHERE part = $1 AND user_id = $2 AND until IS NULL;

-- name: DeleteMutedTimes :exec
DELETE FROM muted_time WHERE part = $1 AND user_id = $2 AND seq <= $3;
