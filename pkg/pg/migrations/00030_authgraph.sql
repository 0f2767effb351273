-- The auth graph of rooms, in blocks. See docs/state.md, "The auth graph". All of it follows from the event table and may
-- be deleted at any time: who needs it makes it anew.

-- +goose Up
-- What the blocks do not have yet, and what they are made from.
CREATE INDEX event_state ON event (part, room_nid, event_nid) WHERE state_key IS NOT NULL;

-- Block seq of a room is the seq-th run of 4096 state events in the order of their numeric ids.
CREATE TABLE auth_block (
    part     integer NOT NULL,
    seq      integer NOT NULL,
    room_nid bigint  NOT NULL,
    last_nid bigint  NOT NULL,  -- the last event of the block
    data     bytea   NOT NULL,  -- encoded by pkg/authgraph
    PRIMARY KEY (part, room_nid, seq)
);
-- It is compressed already.
ALTER TABLE auth_block ALTER COLUMN data SET STORAGE EXTERNAL;

-- Memberships of rooms that we are not in came without their auth events: flag 8 says so (pkg/roomdb). From version 12 on
-- the creator's own join has none either.
UPDATE event e SET flags = flags | 8 FROM room r
WHERE r.part = e.part AND r.room_nid = e.room_nid AND flags & 1 <> 0 AND cardinality(auth) = 0
    AND type = 'm.room.member' AND (state_key <> sender OR r.version <> '12');

-- +goose Down
UPDATE event SET flags = flags & ~8 WHERE flags & 8 <> 0;
DROP TABLE auth_block;
DROP INDEX event_state;
