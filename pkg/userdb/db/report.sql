-- name: AddReport :exec
INSERT INTO report (part, user_id, kind, room_id, event_id, target, reason, created_ts) VALUES ($1, $2, $3, $4, $5, $6, $7, $8);
