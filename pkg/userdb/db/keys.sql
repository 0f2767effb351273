-- End-to-end encryption keys.

-- name: RaiseDeviceList :one
INSERT INTO device_list (part, user_id, stream_id) VALUES ($1, $2, 1)
ON CONFLICT (part, user_id) DO UPDATE SET stream_id = device_list.stream_id + 1
RETURNING stream_id;

-- name: RaiseCrossSigning :one
INSERT INTO device_list AS l (part, user_id, stream_id, keys_stream) VALUES ($1, $2, 0, 1)
ON CONFLICT (part, user_id) DO UPDATE SET keys_stream = greatest(l.keys_stream, l.stream_id) + 1
RETURNING keys_stream;

-- name: DeviceListStream :one
SELECT coalesce((SELECT stream_id FROM device_list WHERE part = $1 AND user_id = $2), 0)::bigint;

-- name: DeviceKey :one
SELECT keys FROM device_key WHERE part = $1 AND user_id = $2 AND device_id = $3;

-- name: PutDeviceKey :exec
INSERT INTO device_key (part, user_id, device_id, keys, stream_id) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (part, user_id, device_id) DO UPDATE SET keys = excluded.keys, stream_id = excluded.stream_id;

-- name: DeviceKeys :many
SELECT k.user_id, k.device_id, k.keys, d.display_name
FROM device_key k JOIN device d ON d.part = k.part AND d.user_id = k.user_id AND d.device_id = k.device_id
WHERE k.part = ANY(sqlc.arg(parts)::int[]) AND k.user_id = ANY(sqlc.arg(user_ids)::text[])
ORDER BY k.user_id, k.device_id;

-- name: OneTimeKeys :many
SELECT algorithm, key_id, key FROM one_time_key
WHERE part = $1 AND user_id = $2 AND device_id = $3
  AND (algorithm, key_id) IN (SELECT unnest(sqlc.arg(algorithms)::text[]), unnest(sqlc.arg(key_ids)::text[]));

-- name: AddOneTimeKeys :exec
INSERT INTO one_time_key (part, user_id, device_id, algorithm, key_id, key, n)
SELECT $1, $2, $3, k.algorithm, k.key_id, k.key, k.n
FROM (SELECT unnest(sqlc.arg(algorithms)::text[]) AS algorithm, unnest(sqlc.arg(key_ids)::text[]) AS key_id,
             unnest(sqlc.arg(keys)::bytea[]) AS key, unnest(sqlc.arg(ns)::bigint[]) AS n) k
ON CONFLICT DO NOTHING;

-- name: OneTimeKeyCounts :many
SELECT algorithm, count(*) AS count FROM one_time_key
WHERE part = $1 AND user_id = $2 AND device_id = $3 GROUP BY algorithm;

-- name: UnusedFallbackAlgorithms :many
SELECT algorithm FROM fallback_key WHERE part = $1 AND user_id = $2 AND device_id = $3 AND NOT used ORDER BY algorithm;

-- name: PutFallbackKey :exec
INSERT INTO fallback_key (part, user_id, device_id, algorithm, key_id, key) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (part, user_id, device_id, algorithm) DO UPDATE
SET key_id = excluded.key_id, key = excluded.key, used = fallback_key.used AND sqlc.arg(same)::bool;

-- name: ClaimOneTimeKey :one
DELETE FROM one_time_key o WHERE (o.part, o.user_id, o.device_id, o.algorithm, o.key_id) = (
    SELECT k.part, k.user_id, k.device_id, k.algorithm, k.key_id FROM one_time_key k
    WHERE k.part = $1 AND k.user_id = $2 AND k.device_id = $3 AND k.algorithm = $4
    ORDER BY k.n LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING o.key_id, o.key;

-- name: FallbackKey :one
SELECT key_id, key FROM fallback_key WHERE part = $1 AND user_id = $2 AND device_id = $3 AND algorithm = $4;

-- name: UseFallbackKey :one
UPDATE fallback_key SET used = true WHERE part = $1 AND user_id = $2 AND device_id = $3 AND algorithm = $4
RETURNING key_id, key;

-- name: CrossSigningKeys :many
SELECT user_id, usage, key FROM cross_signing_key
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id = ANY(sqlc.arg(user_ids)::text[]);

-- name: PutCrossSigningKey :exec
INSERT INTO cross_signing_key (part, user_id, usage, key) VALUES ($1, $2, $3, $4)
ON CONFLICT (part, user_id, usage) DO UPDATE SET key = excluded.key;

-- name: DeleteCrossSigningKeys :exec
DELETE FROM cross_signing_key WHERE part = $1 AND user_id = $2;

-- name: PutSignature :execrows
INSERT INTO key_signature (part, user_id, target, signer, signer_key_id, signature) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (part, user_id, target, signer, signer_key_id) DO UPDATE SET signature = excluded.signature
WHERE key_signature.signature <> excluded.signature;

-- name: Signatures :many
SELECT user_id, target, signer, signer_key_id, signature FROM key_signature
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id = ANY(sqlc.arg(user_ids)::text[]);

-- name: DeleteSignatures :exec
DELETE FROM key_signature WHERE part = $1 AND user_id = $2;

-- name: RemoteDeviceLists :many
SELECT * FROM remote_device_list
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id = ANY(sqlc.arg(user_ids)::text[]);

-- name: RemoteDeviceList :one
SELECT * FROM remote_device_list WHERE part = $1 AND user_id = $2 FOR UPDATE;

-- name: FollowRemoteDeviceList :one
INSERT INTO remote_device_list AS l (part, user_id, stream_id, stale, fetched_ts) VALUES ($1, $2, 0, true, 0)
ON CONFLICT (part, user_id) DO UPDATE SET news = l.news
RETURNING news;

-- name: PutRemoteDeviceList :exec
INSERT INTO remote_device_list (part, user_id, stream_id, stale, content, fetched_ts, news, seen_part, seen_room, seen_nid, seen_by, seen_by_nid)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (part, user_id) DO UPDATE
SET stream_id = excluded.stream_id, stale = excluded.stale, content = excluded.content, fetched_ts = excluded.fetched_ts,
    news = excluded.news, seen_part = excluded.seen_part, seen_room = excluded.seen_room, seen_nid = excluded.seen_nid,
    seen_by = excluded.seen_by, seen_by_nid = excluded.seen_by_nid;

-- name: PutDeviceNotice :exec
INSERT INTO device_notice (part, user_id, target, seq) VALUES ($1, $2, $3, $4)
ON CONFLICT (part, user_id, target) DO UPDATE SET seq = excluded.seq;

-- name: DeviceNotices :many
SELECT target FROM device_notice
WHERE part = $1 AND user_id = $2 AND seq > sqlc.arg(after)::bigint AND seq <= sqlc.arg(up_to)::bigint ORDER BY target;
