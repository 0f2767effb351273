-- Of which events of a partition the relations (00100) are stored. Owners write those of the events that they append. What was there
-- before, and what an owner of an older version appended during a rolling upgrade, is made good in the background: an owner that finds
-- another epoch here than the one before its own knows that somebody else owned the partition who did not write relations.

-- +goose Up
CREATE TABLE relation_fill (
    part  integer PRIMARY KEY,
    epoch bigint NOT NULL,                        -- of the last owner that writes relations
    done  bigint NOT NULL,                        -- events up to this numeric id have theirs
    goal  bigint NOT NULL                         -- so have those behind this one
);

-- +goose Down
DROP TABLE relation_fill;
