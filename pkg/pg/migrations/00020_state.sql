-- State snapshots: what the state of a room was before an event (event.sid). See docs/state.md.
-- Rows never change. A snapshot is its parent and what differs from it; segments let a reader
-- leap over many snapshots of the chain at once, and are derived: all may be lost without loss.

-- +goose Up
CREATE TABLE state_delta (
    sid    bigint  NOT NULL,  -- numeric id of the partition; greater than parent
    parent bigint  NOT NULL,  -- 0: the empty state
    part   integer NOT NULL,
    delta  bytea   NOT NULL,  -- entries that differ from parent, encoded by pkg/state
    PRIMARY KEY (part, sid)
);
-- What is long is compressed already; external lets a reader that does not want it leave it unread.
ALTER TABLE state_delta ALTER COLUMN delta SET STORAGE EXTERNAL;

CREATE TABLE state_seg (
    sid  bigint  NOT NULL,
    back bigint  NOT NULL,    -- an ancestor of sid, 0: the empty state
    span bigint  NOT NULL,    -- how many snapshots lie between them; 0 if back is 0
    part integer NOT NULL,
    data bytea   NOT NULL,    -- entries that differ from back
    PRIMARY KEY (part, sid)
);
ALTER TABLE state_seg ALTER COLUMN data SET STORAGE EXTERNAL;

-- +goose Down
DROP TABLE state_seg, state_delta;
