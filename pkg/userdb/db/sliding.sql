-- Connections of sliding sync.

-- name: SlidingConnection :one
SELECT generation, n, base, delta, next_n, next, used_ts FROM sliding_connection
WHERE part = $1 AND user_id = $2 AND device_id = $3 AND conn_id = $4;

-- Of a device's connections the one that was used last longest ago makes room for another.
-- name: PutSlidingConnection :exec
WITH old AS (
    DELETE FROM sliding_connection WHERE part = $1 AND user_id = $2 AND device_id = $3 AND conn_id IN (
        SELECT c.conn_id FROM sliding_connection c
        WHERE c.part = $1 AND c.user_id = $2 AND c.device_id = $3 AND c.conn_id <> $4
        ORDER BY c.used_ts DESC, c.conn_id OFFSET sqlc.arg(keep)::int)
)
INSERT INTO sliding_connection (part, user_id, device_id, conn_id, generation, n, base, delta, next_n, next, used_ts)
VALUES ($1, $2, $3, $4, sqlc.arg(generation), sqlc.arg(n), sqlc.arg(base), '', sqlc.arg(n), '', sqlc.arg(used_ts))
ON CONFLICT (part, user_id, device_id, conn_id) DO UPDATE
SET generation = excluded.generation, n = excluded.n, base = excluded.base, delta = '', next_n = excluded.next_n, next = '',
    used_ts = excluded.used_ts;

-- Base is null where it stays as it is. No row: the connection has gone on elsewhere, or begun anew.
-- name: MoveSlidingConnection :execrows
UPDATE sliding_connection
SET n = sqlc.arg(n), base = coalesce(sqlc.narg(base)::bytea, base), delta = sqlc.arg(delta), next_n = sqlc.arg(next_n),
    next = sqlc.arg(next), used_ts = greatest(used_ts, sqlc.arg(used_ts)::bigint)
WHERE part = $1 AND user_id = $2 AND device_id = $3 AND conn_id = $4 AND generation = sqlc.arg(generation)
  AND (n = sqlc.arg(n) OR next_n = sqlc.arg(n)) AND next_n < sqlc.arg(next_n);

-- name: TouchSlidingConnection :exec
UPDATE sliding_connection SET used_ts = greatest(used_ts, sqlc.arg(used_ts)::bigint)
WHERE part = $1 AND user_id = $2 AND device_id = $3 AND conn_id = $4 AND generation = sqlc.arg(generation);

-- name: DeleteSlidingConnections :exec
DELETE FROM sliding_connection WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: PruneSlidingConnections :exec
DELETE FROM sliding_connection WHERE part = ANY(sqlc.arg(parts)::int[]) AND used_ts < sqlc.arg(before)::bigint;

-- name: AccountDataOfRooms :many
SELECT room_id, type, content, seq FROM account_data
WHERE part = $1 AND user_id = $2 AND room_id = ANY(sqlc.arg(room_ids)::text[]) AND NOT deleted ORDER BY seq, room_id, type;

-- name: AccountDataOfType :many
SELECT room_id, type, content, seq FROM account_data
WHERE part = $1 AND user_id = $2 AND type = $3 AND room_id <> '' AND NOT deleted;
