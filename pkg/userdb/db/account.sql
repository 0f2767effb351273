-- Accounts and profiles.

-- name: CreateAccount :execrows
INSERT INTO account (part, user_id, password_hash, admin, guest, appservice_id, displayname, created_ts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING;

-- name: Account :one
SELECT * FROM account WHERE part = $1 AND user_id = $2;

-- name: AccountExists :one
SELECT EXISTS (SELECT FROM account WHERE part = $1 AND user_id = $2);

-- name: SetPassword :execrows
UPDATE account SET password_hash = $3 WHERE part = $1 AND user_id = $2 AND NOT deactivated;

-- name: SetAdmin :execrows
UPDATE account SET admin = $3 WHERE part = $1 AND user_id = $2;

-- name: AvatarsUsed :many
SELECT DISTINCT avatar_url::text FROM account WHERE part = ANY(@parts::integer[]) AND avatar_url = ANY(@uris::text[]);

-- name: Deactivate :execrows
UPDATE account SET deactivated = true, erased = erased OR sqlc.arg(erase)::boolean,
    password_hash = CASE WHEN sqlc.arg(erase)::boolean THEN '' ELSE password_hash END,
    displayname = CASE WHEN sqlc.arg(erase)::boolean THEN NULL ELSE displayname END,
    avatar_url = CASE WHEN sqlc.arg(erase)::boolean THEN NULL ELSE avatar_url END,
    profile = CASE WHEN sqlc.arg(erase)::boolean THEN '{}'::jsonb ELSE profile END
WHERE part = $1 AND user_id = $2;

-- name: Profile :one
SELECT displayname, avatar_url, profile FROM account WHERE part = $1 AND user_id = $2 AND NOT erased;

-- name: LockProfile :one
SELECT displayname, avatar_url, profile FROM account WHERE part = $1 AND user_id = $2 FOR UPDATE;

-- name: SetProfile :exec
UPDATE account SET displayname = $3, avatar_url = $4, profile = $5 WHERE part = $1 AND user_id = $2;

-- name: Profiles :many
SELECT user_id, displayname, avatar_url FROM account
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id = ANY(sqlc.arg(user_ids)::text[]) AND NOT deactivated;

-- name: Guests :many
SELECT user_id FROM account
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id = ANY(sqlc.arg(user_ids)::text[]) AND guest AND NOT deactivated;

-- name: DeleteWords :exec
DELETE FROM directory_word WHERE part = $1 AND user_id = $2;

-- name: AddWords :exec
INSERT INTO directory_word (part, user_id, word)
SELECT $1, $2, unnest(sqlc.arg(words)::text[]) ON CONFLICT DO NOTHING;

-- name: UsersByWord :many
SELECT DISTINCT user_id, part FROM directory_word
WHERE part = ANY(sqlc.arg(parts)::int[]) AND word >= sqlc.arg(low)::text AND word < sqlc.arg(high)::text
LIMIT $1;

-- name: UseRegistrationToken :execrows
INSERT INTO registration_token_use (part, token, used) VALUES ($1, $2, 1)
ON CONFLICT (part, token) DO UPDATE SET used = registration_token_use.used + 1
WHERE sqlc.arg(allowed)::bigint = 0 OR registration_token_use.used < sqlc.arg(allowed)::bigint;

-- name: ReturnRegistrationToken :exec
UPDATE registration_token_use SET used = used - 1 WHERE part = $1 AND token = $2 AND used > 0;

-- name: RegistrationTokenUses :one
SELECT coalesce((SELECT used FROM registration_token_use WHERE part = $1 AND token = $2), 0)::bigint;

-- name: ListAccounts :many
SELECT * FROM account
WHERE part = ANY(sqlc.arg(parts)::int[]) AND user_id > sqlc.arg(after)::text AND strpos(user_id, sqlc.arg(containing)::text) > 0
ORDER BY user_id LIMIT $1;
