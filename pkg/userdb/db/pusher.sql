-- name: Pushers :many
SELECT * FROM pusher WHERE part = $1 AND user_id = $2 ORDER BY created_ts, app_id, pushkey;

-- name: PutPusher :exec
-- The pusher stays that of the device that set it first: another one may turn it off (MSC3881).
INSERT INTO pusher (part, user_id, app_id, pushkey, device_id, kind, app_display_name, device_display_name, profile_tag, lang, data, created_ts, enabled)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (part, user_id, app_id, pushkey) DO UPDATE
SET device_id = CASE pusher.device_id WHEN '' THEN excluded.device_id ELSE pusher.device_id END, kind = excluded.kind, app_display_name = excluded.app_display_name,
    device_display_name = excluded.device_display_name, profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data,
    enabled = excluded.enabled, failures = 0, failing_since = 0, next_try = 0;

-- name: DeletePusher :exec
DELETE FROM pusher WHERE part = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4;

-- name: DeletePusherOfOthers :exec
DELETE FROM pusher WHERE part = ANY(sqlc.arg(parts)::int[]) AND app_id = $1 AND pushkey = $2 AND user_id <> $3;

-- name: DeleteAllPushers :exec
DELETE FROM pusher WHERE part = $1 AND user_id = $2;
