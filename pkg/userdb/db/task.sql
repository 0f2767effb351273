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
