-- Server-side key backups (client-server API, "Server-side key backups").

-- name: CreateBackup :one
INSERT INTO key_backup (part, user_id, version, algorithm, auth_data)
SELECT $1, $2, coalesce((SELECT max(version) FROM key_backup b WHERE b.part = $1 AND b.user_id = $2), 0) + 1, $3, $4
RETURNING version;

-- name: Backup :one
SELECT version, algorithm, auth_data, etag, count FROM key_backup
WHERE part = $1 AND user_id = $2 AND version = $3 AND NOT deleted;

-- name: LatestBackup :one
SELECT version, algorithm, auth_data, etag, count FROM key_backup
WHERE part = $1 AND user_id = $2 AND NOT deleted ORDER BY version DESC LIMIT 1;

-- name: LockLatestBackup :one
SELECT version, etag, count FROM key_backup
WHERE part = $1 AND user_id = $2 AND NOT deleted ORDER BY version DESC LIMIT 1 FOR UPDATE;

-- name: SetBackupAuth :execrows
UPDATE key_backup SET auth_data = $4 WHERE part = $1 AND user_id = $2 AND version = $3 AND NOT deleted;

-- name: DeleteBackup :execrows
UPDATE key_backup SET deleted = true, count = 0 WHERE part = $1 AND user_id = $2 AND version = $3 AND NOT deleted;

-- name: DeleteBackupSessions :execrows
DELETE FROM key_backup_session WHERE part = $1 AND user_id = $2 AND version = $3
  AND (sqlc.arg(room_id)::text = '' OR room_id = sqlc.arg(room_id)::text)
  AND (sqlc.arg(session_id)::text = '' OR session_id = sqlc.arg(session_id)::text);

-- name: BackupSessions :many
SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data FROM key_backup_session
WHERE part = $1 AND user_id = $2 AND version = $3
  AND (sqlc.arg(room_id)::text = '' OR room_id = sqlc.arg(room_id)::text)
  AND (sqlc.arg(session_id)::text = '' OR session_id = sqlc.arg(session_id)::text);

-- name: PutBackupSessions :execrows
-- Better keys replace worse ones: verified, then a lower first index, then fewer forwards.
INSERT INTO key_backup_session AS k (part, user_id, version, room_id, session_id, first_message_index, forwarded_count, is_verified, session_data)
SELECT $1, $2, $3, s.room_id, s.session_id, s.first, s.forwarded, s.verified, s.data
FROM (SELECT unnest(sqlc.arg(room_ids)::text[]) AS room_id, unnest(sqlc.arg(session_ids)::text[]) AS session_id,
             unnest(sqlc.arg(firsts)::bigint[]) AS first, unnest(sqlc.arg(forwardeds)::bigint[]) AS forwarded,
             unnest(sqlc.arg(verifieds)::boolean[]) AS verified, unnest(sqlc.arg(datas)::bytea[]) AS data) s
ON CONFLICT (part, user_id, version, room_id, session_id) DO UPDATE
SET first_message_index = excluded.first_message_index, forwarded_count = excluded.forwarded_count,
    is_verified = excluded.is_verified, session_data = excluded.session_data
WHERE (excluded.is_verified AND NOT k.is_verified)
   OR (excluded.is_verified = k.is_verified AND (excluded.first_message_index < k.first_message_index
       OR (excluded.first_message_index = k.first_message_index AND excluded.forwarded_count < k.forwarded_count)));

-- name: TouchBackup :one
UPDATE key_backup SET etag = etag + 1, count = (
    SELECT count(*) FROM key_backup_session s
    WHERE s.part = key_backup.part AND s.user_id = key_backup.user_id AND s.version = key_backup.version)
WHERE key_backup.part = $1 AND key_backup.user_id = $2 AND key_backup.version = $3
RETURNING etag, count;
