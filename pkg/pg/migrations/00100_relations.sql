-- Relations of events (client-server API, "Forming relationships between events"). A row for each event of the timeline that
-- relates to another one, and for each thread its number of replies: no read counts events. An event that relates to none has no
-- row.

-- +goose Up
CREATE TABLE relation (
    part      integer NOT NULL,
    child     bigint  NOT NULL,                   -- the event that relates to another one
    room_nid  bigint  NOT NULL,
    parent    text    NOT NULL COLLATE "C",       -- the event that it relates to, be it here or not
    rel_type  text    NOT NULL COLLATE "C",
    child_id  text    NOT NULL COLLATE "C",
    type      text    NOT NULL COLLATE "C",       -- of the child, like the next two
    sender    text    NOT NULL COLLATE "C",
    origin_ts bigint  NOT NULL,
    place     bigint  NOT NULL,                   -- of the child in the timeline, as package roomdb encodes it
    key       text    NOT NULL COLLATE "C",       -- of an annotation
    edit      boolean NOT NULL,                   -- the child may replace the content of the parent
    live      boolean NOT NULL,                   -- the child is in the timeline and not redacted
    PRIMARY KEY (part, child)
);
CREATE INDEX relation_place ON relation (part, room_nid, parent, place) WHERE live;
CREATE INDEX relation_type ON relation (part, room_nid, parent, rel_type, place) WHERE live;
-- The edits of an event's sender, the newest last, and what somebody annotated it with.
CREATE INDEX relation_sender ON relation (part, room_nid, parent, sender, origin_ts, child_id)
    WHERE live AND rel_type IN ('m.annotation', 'm.replace');

-- Threads, and who takes part in them.
CREATE TABLE thread (
    part       integer NOT NULL,
    room_nid   bigint  NOT NULL,
    user_id    text    NOT NULL COLLATE "C",      -- whose replies are counted; '': everybody's
    root       text    NOT NULL COLLATE "C",
    replies    bigint  NOT NULL,                  -- 0 of who only sent the root
    last_place bigint  NOT NULL,                  -- of the newest reply, in the row for everybody
    PRIMARY KEY (part, room_nid, user_id, root)
) WITH (fillfactor = 80);
CREATE INDEX thread_last ON thread (part, room_nid, last_place) WHERE user_id = '' AND replies > 0;

-- The rows of events that are here already are written by the owners of their partitions, in the background: 00137.

-- +goose Down
DROP TABLE thread, relation;
