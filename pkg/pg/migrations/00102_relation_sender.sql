-- Somebody's edits of an event are not looked for among the annotations.

-- +goose NO TRANSACTION
-- +goose Up
DROP INDEX CONCURRENTLY IF EXISTS relation_sender_new; -- of an attempt that was broken off
CREATE INDEX CONCURRENTLY relation_sender_new ON relation (part, room_nid, parent, sender, rel_type, origin_ts, child_id)
    WHERE live AND rel_type IN ('m.annotation', 'm.replace');
DROP INDEX CONCURRENTLY IF EXISTS relation_sender;
ALTER INDEX relation_sender_new RENAME TO relation_sender;

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS relation_sender;
CREATE INDEX CONCURRENTLY relation_sender ON relation (part, room_nid, parent, sender, origin_ts, child_id)
    WHERE live AND rel_type IN ('m.annotation', 'm.replace');
