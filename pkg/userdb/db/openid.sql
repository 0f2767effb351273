-- name: AddOpenIDToken :exec
INSERT INTO openid_token (part, hash, user_id, expires_ts) VALUES ($1, $2, $3, $4);

-- name: OpenIDTokenOwner :one
SELECT user_id FROM openid_token WHERE part = $1 AND hash = $2 AND expires_ts > sqlc.arg(now)::bigint;

-- name: PruneOpenIDTokens :exec
DELETE FROM openid_token WHERE part = ANY(sqlc.arg(parts)::int[]) AND expires_ts < sqlc.arg(now)::bigint;
