-- name: AddEDU :exec
INSERT INTO fed_edu (part, server_name, origin, edu_type, dedup_key, content) VALUES ($1, $2, $3, $4, $5, $6);
