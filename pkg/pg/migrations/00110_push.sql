-- Push: what waits for push gateways lies in the user's partition.

-- +goose Up
-- Who sends for the users of a partition and reads its log, and how far that was read (package follow).
CREATE TABLE push_owner (
    part  integer PRIMARY KEY,
    epoch bigint  NOT NULL
);
CREATE TABLE push_cursor (
    part     integer NOT NULL,
    log_part integer NOT NULL,
    pos      bigint  NOT NULL,
    PRIMARY KEY (part, log_part)
);

ALTER TABLE pusher
    ADD enabled       boolean NOT NULL DEFAULT true,
    ADD failures      integer NOT NULL DEFAULT 0, -- attempts in a row that have failed
    ADD failing_since bigint  NOT NULL DEFAULT 0, -- ms since 1970, of the first of them
    ADD next_try      bigint  NOT NULL DEFAULT 0, -- ms since 1970: not before
    ADD badge         bigint  NOT NULL DEFAULT 0; -- the count that the gateway was told last

-- What waits for a pusher: an event of which it is to notify, or (room_part -1, pos 0) a count that may have changed.
CREATE TABLE push_pending (
    part       integer NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    app_id     text    NOT NULL COLLATE "C",
    pushkey    text    NOT NULL COLLATE "C",
    room_part  integer NOT NULL,
    pos        bigint  NOT NULL,                  -- of the event in the room's log
    room_id    text    NOT NULL COLLATE "C" DEFAULT '',
    event_id   text    NOT NULL COLLATE "C" DEFAULT '',
    event_nid  bigint  NOT NULL DEFAULT 0,
    tweaks     bytea   NOT NULL DEFAULT '{}',     -- JSON object
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, user_id, app_id, pushkey, room_part, pos)
);

-- Rooms in which a user was notified of something that may be unread still: those that a badge is counted from.
CREATE TABLE push_unread (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    room_part integer NOT NULL,
    room_nid  bigint  NOT NULL,
    room_id   text    NOT NULL COLLATE "C",
    pos       bigint  NOT NULL,                   -- of the newest of it in the room's log
    PRIMARY KEY (part, user_id, room_part, room_nid)
) WITH (fillfactor = 70);

-- +goose Down
DROP TABLE push_unread, push_pending, push_cursor, push_owner;
ALTER TABLE pusher DROP enabled, DROP failures, DROP failing_since, DROP next_try, DROP badge;
