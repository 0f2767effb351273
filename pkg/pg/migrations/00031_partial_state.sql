-- Rooms that were joined without their members (send_join with omit_members): what their owner has yet to do.

-- +goose Up
ALTER TABLE room ADD full_pos bigint NOT NULL DEFAULT 0; -- log position from which on the state is whole; -1: not yet

CREATE TABLE partial_room (
    part     integer NOT NULL,
    room_nid bigint  NOT NULL,
    join_nid bigint  NOT NULL,                    -- our join: what came with it is the state before it, without members
    via      text    NOT NULL COLLATE "C",        -- the server that let us in
    since_ts bigint  NOT NULL,
    PRIMARY KEY (part, room_nid)
);

-- Events that were judged by a state without its members, in the order in which they came.
CREATE TABLE partial_event (
    part      integer NOT NULL,
    room_nid  bigint  NOT NULL,
    n         bigint  NOT NULL,
    event_nid bigint  NOT NULL,
    history   boolean NOT NULL,                   -- older than our join
    PRIMARY KEY (part, room_nid, n)
);

-- Events of the omitted state on their way into the event table: fetched and verified, but not judged, as what they cite
-- may come after them. A spool that may be lost at any time.
CREATE UNLOGGED TABLE partial_spool (
    part     integer NOT NULL,
    room_nid bigint  NOT NULL,
    depth    bigint  NOT NULL,
    event_id text    NOT NULL COLLATE "C",
    json     bytea   NOT NULL,
    PRIMARY KEY (part, room_nid, depth, event_id)
);

-- +goose Down
DROP TABLE partial_spool, partial_event, partial_room;
ALTER TABLE room DROP full_pos;
