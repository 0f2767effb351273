-- When an object that nobody uses is deleted: one whose upload broke off may come to the store after the upload has failed.

-- +goose Up
ALTER TABLE media_garbage ADD COLUMN due_ts bigint NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE media_garbage DROP COLUMN due_ts;
