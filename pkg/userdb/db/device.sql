-- Devices and tokens.

-- name: UpsertDevice :one
INSERT INTO device (part, user_id, device_id, display_name, created_ts, appservice_id)
VALUES ($1, $2, $3, $4, $5, coalesce((SELECT a.appservice_id FROM account a WHERE a.part = $1 AND a.user_id = $2), ''))
ON CONFLICT (part, user_id, device_id) DO UPDATE SET display_name = device.display_name
RETURNING (xmax = 0)::boolean AS created;

-- name: Devices :many
SELECT * FROM device WHERE part = $1 AND user_id = $2 ORDER BY device_id;

-- name: Device :one
SELECT * FROM device WHERE part = $1 AND user_id = $2 AND device_id = $3;

-- name: DeviceExists :one
SELECT EXISTS (SELECT FROM device WHERE part = $1 AND user_id = $2 AND device_id = $3);

-- name: RenameDevice :execrows
UPDATE device SET display_name = $4 WHERE part = $1 AND user_id = $2 AND device_id = $3;

-- name: SeenDevices :exec
UPDATE device d SET last_seen_ts = s.ts, last_seen_ip = s.ip, user_agent = s.agent
FROM (SELECT unnest(sqlc.arg(parts)::int[]) AS part, unnest(sqlc.arg(user_ids)::text[]) AS user_id,
             unnest(sqlc.arg(device_ids)::text[]) AS device_id, unnest(sqlc.arg(tss)::bigint[]) AS ts,
             unnest(sqlc.arg(ips)::text[]) AS ip, unnest(sqlc.arg(agents)::text[]) AS agent) s
WHERE d.part = s.part AND d.user_id = s.user_id AND d.device_id = s.device_id
  AND (d.last_seen_ts IS NULL OR d.last_seen_ts < s.ts);

-- name: DeleteDevices :many
DELETE FROM device WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]) RETURNING device_id;

-- name: DeleteDeviceKeys :execrows
DELETE FROM device_key WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteOneTimeKeys :exec
DELETE FROM one_time_key WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteFallbackKeys :exec
DELETE FROM fallback_key WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteToDevice :exec
DELETE FROM to_device WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteDeviceSignatures :exec
DELETE FROM key_signature WHERE part = $1 AND user_id = $2 AND target = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteDevicePushers :exec
DELETE FROM pusher WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteDeviceAccessTokens :exec
DELETE FROM access_token WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteDeviceRefreshTokens :exec
DELETE FROM refresh_token WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);

-- name: DeleteAllAccessTokens :exec
DELETE FROM access_token WHERE part = $1 AND user_id = $2;

-- name: DeleteAllRefreshTokens :exec
DELETE FROM refresh_token WHERE part = $1 AND user_id = $2;

-- name: AddAccessToken :exec
INSERT INTO access_token (part, hash, user_id, device_id, expires_ts, refresh_hash, created_ts) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: AddRefreshToken :exec
INSERT INTO refresh_token (part, hash, user_id, device_id, expires_ts, created_ts) VALUES ($1, $2, $3, $4, $5, $6);

-- name: TokenOwner :one
SELECT t.user_id, t.device_id, t.expires_ts, t.refresh_hash, a.guest, a.admin, a.deactivated, a.appservice_id,
    EXISTS (SELECT FROM refresh_token r
            WHERE r.part = t.part AND r.user_id = t.user_id AND r.device_id = t.device_id AND r.next_hash = t.refresh_hash) AS supersedes
FROM access_token t JOIN account a ON a.part = t.part AND a.user_id = t.user_id
WHERE t.part = $1 AND t.hash = $2;

-- name: LockRefreshToken :one
SELECT user_id, device_id, next_hash, expires_ts FROM refresh_token WHERE part = $1 AND hash = $2 FOR UPDATE;

-- name: SetRefreshTokenNext :exec
UPDATE refresh_token SET next_hash = $3 WHERE part = $1 AND hash = $2;

-- name: DeleteRefreshToken :exec
WITH gone AS (DELETE FROM access_token a WHERE a.part = $1 AND a.user_id = $2 AND a.refresh_hash = $3)
DELETE FROM refresh_token r WHERE r.part = $1 AND r.hash = $3;

-- name: DeleteSuperseded :exec
-- Drops the refresh tokens that were exchanged for this one, and the access tokens that came with them.
WITH old AS (
    DELETE FROM refresh_token r WHERE r.part = $1 AND r.user_id = $2 AND r.next_hash = $3 RETURNING r.hash
)
DELETE FROM access_token a USING old WHERE a.part = $1 AND a.user_id = $2 AND a.refresh_hash = old.hash;

-- name: DeleteOtherAccessTokens :exec
DELETE FROM access_token WHERE part = $1 AND user_id = $2 AND device_id = $3 AND hash <> $4;

-- name: DehydratedDevice :one
SELECT device_id, data FROM dehydrated_device WHERE part = $1 AND user_id = $2;

-- name: PutDehydratedDevice :exec
INSERT INTO dehydrated_device (part, user_id, device_id, data) VALUES ($1, $2, $3, $4)
ON CONFLICT (part, user_id) DO UPDATE SET device_id = excluded.device_id, data = excluded.data;

-- name: DeleteDehydratedDevice :exec
DELETE FROM dehydrated_device WHERE part = $1 AND user_id = $2 AND device_id = ANY(sqlc.arg(device_ids)::text[]);
