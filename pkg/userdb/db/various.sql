-- Pushers, tasks, OpenID tokens, reports.

-- name: Pushers :many
SELECT * FROM pusher WHERE part = $1 AND user_id = $2 ORDER BY created_ts, app_id, pushkey;

-- name: PutPusher :exec
INSERT INTO pusher (part, user_id, app_id, pushkey, device_id, kind, app_display_name, device_display_name, profile_tag, lang, data, created_ts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (part, user_id, app_id, pushkey) DO UPDATE
SET device_id = excluded.device_id, kind = excluded.kind, app_display_name = excluded.app_display_name,
    device_display_name = excluded.device_display_name, profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data;

-- name: DeletePusher :exec
DELETE FROM pusher WHERE part = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4;

-- name: DeletePusherOfOthers :exec
DELETE FROM pusher WHERE part = ANY(sqlc.arg(parts)::int[]) AND app_id = $1 AND pushkey = $2 AND user_id <> $3;

-- name: DeleteAllPushers :exec
DELETE FROM pusher WHERE part = $1 AND user_id = $2;

-- name: PutTask :one
-- Versions are microseconds, so that none is used again after a task was finished.
INSERT INTO user_task (part, user_id, kind, key, version, payload, due_ts)
VALUES ($1, $2, $3, $4, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $5, $6)
ON CONFLICT (part, user_id, kind, key) DO UPDATE
SET version = greatest(user_task.version + 1, excluded.version), payload = excluded.payload, due_ts = excluded.due_ts, attempts = 0
RETURNING version;

-- name: DueTasks :many
UPDATE user_task t SET due_ts = sqlc.arg(now)::bigint + least(3600000, 30000 * (1 << least(t.attempts, 7))), attempts = t.attempts + 1
FROM (SELECT u.part, u.user_id, u.kind, u.key FROM user_task u
      WHERE u.part = ANY(sqlc.arg(parts)::int[]) AND u.due_ts <= sqlc.arg(now)::bigint
      ORDER BY u.due_ts LIMIT sqlc.arg(max)::int FOR UPDATE SKIP LOCKED) d
WHERE t.part = d.part AND t.user_id = d.user_id AND t.kind = d.kind AND t.key = d.key
RETURNING t.part, t.user_id, t.kind, t.key, t.version, t.payload, t.attempts;

-- name: FinishTask :execrows
DELETE FROM user_task WHERE part = $1 AND user_id = $2 AND kind = $3 AND key = $4 AND version = $5;

-- name: AddOpenIDToken :exec
INSERT INTO openid_token (part, hash, user_id, expires_ts) VALUES ($1, $2, $3, $4);

-- name: OpenIDTokenOwner :one
SELECT user_id FROM openid_token WHERE part = $1 AND hash = $2 AND expires_ts > sqlc.arg(now)::bigint;

-- name: PruneOpenIDTokens :exec
DELETE FROM openid_token WHERE part = ANY(sqlc.arg(parts)::int[]) AND expires_ts < sqlc.arg(now)::bigint;

-- name: AddReport :exec
INSERT INTO report (part, user_id, kind, room_id, event_id, target, reason, created_ts) VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: AddEDU :exec
INSERT INTO fed_edu (part, server_name, origin, edu_type, dedup_key, content) VALUES ($1, $2, $3, $4, $5, $6);
