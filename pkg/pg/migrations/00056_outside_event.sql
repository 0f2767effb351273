-- A membership in a room that we are not in is a claim of another server: its event stays with the user's row, and
-- nothing of it becomes part of the room.

-- +goose Up
ALTER TABLE membership ADD event bytea; -- the membership event, if event_nid is 0

-- +goose Down
ALTER TABLE membership DROP event;
