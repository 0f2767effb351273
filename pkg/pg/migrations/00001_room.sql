-- Rooms: every row lies in the room's partition and is written by the partition's owner only, behind the fence.

-- +goose Up
CREATE TABLE partition (
    part         integer PRIMARY KEY,
    epoch        bigint  NOT NULL DEFAULT 0,   -- raised by each takeover
    head         bigint  NOT NULL DEFAULT 0,   -- position of the last log entry
    nid          bigint  NOT NULL DEFAULT 0,   -- highest numeric id given out
    projected    bigint  NOT NULL DEFAULT 0,   -- log position up to which the membership index is written
    owner        text    NOT NULL DEFAULT '',
    owner_addr   text    NOT NULL DEFAULT '',
    pinned_owner text    NOT NULL DEFAULT ''   -- an operator's wish (hanse partition move-owner)
) WITH (fillfactor = 20);

CREATE TABLE room (
    part          integer NOT NULL,
    room_nid      bigint  NOT NULL,
    room_id       text    NOT NULL COLLATE "C",
    version       text    NOT NULL,
    sid           bigint  NOT NULL,             -- snapshot of the current state
    extremities   bigint[] NOT NULL,            -- forward extremities
    depth         bigint  NOT NULL,             -- highest depth of an event
    first_ord     bigint  NOT NULL DEFAULT 0,   -- ord of the oldest event that we hold (negative once history was fetched)
    last_pos      bigint  NOT NULL DEFAULT 0,   -- log position of the room's newest entry
    notify_seq    bigint  NOT NULL DEFAULT 0,
    published     boolean NOT NULL DEFAULT false,
    joined        integer NOT NULL DEFAULT 0,   -- joined members
    invited       integer NOT NULL DEFAULT 0,
    joined_local  integer NOT NULL DEFAULT 0,   -- joined members on the cluster's servers; 0: we are not in the room
    PRIMARY KEY (part, room_nid),
    UNIQUE (part, room_id)
) WITH (fillfactor = 50);
CREATE INDEX room_published ON room (part) WHERE published;

CREATE TABLE event (
    part        integer NOT NULL,
    event_nid   bigint  NOT NULL,
    room_nid    bigint  NOT NULL,
    event_id    text    NOT NULL COLLATE "C",
    ord         bigint,                          -- place in the timeline; null for outliers, rejected and soft-failed events
    depth       bigint  NOT NULL,
    type        text    NOT NULL COLLATE "C",
    state_key   text    COLLATE "C",
    sender      text    NOT NULL COLLATE "C",
    origin_ts   bigint  NOT NULL,
    sid         bigint,                          -- state before the event; null for outliers
    flags       integer NOT NULL DEFAULT 0,      -- 1 outlier, 2 rejected, 4 soft-failed
    auth        bigint[] NOT NULL,               -- auth events
    prev        bigint[] NOT NULL,               -- prev events that we hold
    notify_seq  bigint  NOT NULL DEFAULT 0,
    replaces    bigint  NOT NULL DEFAULT 0,      -- state event replaced in the current state
    redacted_by bigint,
    cause       text    COLLATE "C",             -- what makes a retried request the same request
    json        bytea   NOT NULL,
    PRIMARY KEY (part, event_nid),
    UNIQUE (part, event_id)
) WITH (fillfactor = 95);
ALTER TABLE event ALTER COLUMN json SET COMPRESSION lz4;
CREATE UNIQUE INDEX event_timeline ON event (part, room_nid, ord) WHERE ord IS NOT NULL;
CREATE UNIQUE INDEX event_cause ON event (part, room_nid, cause) WHERE cause IS NOT NULL;

-- Prev events that we lack: the backward extremities of the room.
CREATE TABLE missing_prev (
    part      integer NOT NULL,
    room_nid  bigint  NOT NULL,
    event_id  text    NOT NULL COLLATE "C",      -- the event that we lack
    child     bigint  NOT NULL,                  -- the event that names it
    PRIMARY KEY (part, room_nid, event_id, child)
);

-- The log. Events are read from the event table, other entries carry their protobuf body.
CREATE TABLE log (
    part           integer  NOT NULL,
    pos            bigint   NOT NULL,
    room_nid       bigint   NOT NULL,
    kind           smallint NOT NULL,            -- 1 event, 2 receipt, 3 device change
    event_nid      bigint,
    current_before bigint,
    current_after  bigint,
    body           bytea,                        -- hanse.log.v1.Event without json, or Receipt, or DeviceChange
    PRIMARY KEY (part, pos)
);
CREATE INDEX log_device_change ON log (part, room_nid, pos) WHERE kind = 3;

CREATE TABLE receipt (
    part       integer NOT NULL,
    room_nid   bigint  NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    type       text    NOT NULL COLLATE "C",
    thread_id  text    NOT NULL COLLATE "C" DEFAULT '',
    event_id   text    NOT NULL COLLATE "C",
    ord        bigint  NOT NULL,
    notify_seq bigint  NOT NULL,
    ts         bigint  NOT NULL,
    pos        bigint  NOT NULL,                 -- log position
    PRIMARY KEY (part, room_nid, user_id, type, thread_id)
) WITH (fillfactor = 70);
CREATE INDEX receipt_pos ON receipt (part, room_nid, pos);

-- Local users who were mentioned: the only per-member rows that a message can cause, and only for those it names.
CREATE TABLE mention (
    part      integer NOT NULL,
    room_nid  bigint  NOT NULL,
    user_id   text    NOT NULL COLLATE "C",      -- '' : the whole room
    ord       bigint  NOT NULL,
    thread_id text    NOT NULL COLLATE "C" DEFAULT '',
    PRIMARY KEY (part, room_nid, user_id, ord)
);

-- Which servers have joined members in a room.
CREATE TABLE room_server (
    part     integer NOT NULL,
    room_nid bigint  NOT NULL,
    server   text    NOT NULL COLLATE "C",
    joined   integer NOT NULL,
    PRIMARY KEY (part, room_nid, server)
);
CREATE INDEX room_server_by_server ON room_server (part, server) WHERE joined > 0;

-- What could not be processed, with the command that replays it: hanse deadletter replay.
CREATE TABLE dead_letter (
    part       integer NOT NULL,
    consumer   text    NOT NULL,
    pos        bigint  NOT NULL,
    error      text    NOT NULL,
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, consumer, pos)
);

-- +goose Down
DROP TABLE dead_letter, room_server, mention, receipt, log, missing_prev, event, room, partition;
