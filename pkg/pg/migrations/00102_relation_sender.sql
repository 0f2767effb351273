-- Somebody's edits of an event are not looked for among the annotations.

-- +goose Up
DROP INDEX relation_sender;
CREATE INDEX relation_sender ON relation (part, room_nid, parent, sender, rel_type, origin_ts, child_id)
    WHERE live AND rel_type IN ('m.annotation', 'm.replace');

-- +goose Down
DROP INDEX relation_sender;
CREATE INDEX relation_sender ON relation (part, room_nid, parent, sender, origin_ts, child_id)
    WHERE live AND rel_type IN ('m.annotation', 'm.replace');
