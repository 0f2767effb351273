-- Who sends to the destinations of a partition raises the epoch when it begins, and stores where they stand under that epoch only:
-- what a former owner stores late has no effect.

-- +goose Up
CREATE TABLE fed_owner (
    part  integer PRIMARY KEY,
    epoch bigint  NOT NULL
);

-- When the last failure was noted: a success that was seen before does not undo it.
ALTER TABLE destination ADD last_failure bigint NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE destination DROP last_failure;
DROP TABLE fed_owner;
