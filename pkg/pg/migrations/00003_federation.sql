-- Federation: rows lie in the partition of the other server's name, aliases in that of the alias.

-- +goose Up
-- Keys of the cluster's own server names (in the partition of the name).
CREATE TABLE signing_key (
    part        integer NOT NULL,
    server_name text    NOT NULL COLLATE "C",
    key_id      text    NOT NULL COLLATE "C",
    seed        bytea   NOT NULL,
    created_ts  bigint  NOT NULL,
    expired_ts  bigint,                           -- null: in use
    PRIMARY KEY (part, server_name, key_id)
);

-- Verify keys of other servers.
CREATE TABLE server_key (
    part           integer NOT NULL,
    server_name    text    NOT NULL COLLATE "C",
    key_id         text    NOT NULL COLLATE "C",
    public_key     bytea   NOT NULL,
    valid_until_ts bigint  NOT NULL,
    expired        boolean NOT NULL DEFAULT false,
    fetched_ts     bigint  NOT NULL,
    response       bytea   NOT NULL,              -- the signed answer that it came in, for notary queries
    PRIMARY KEY (part, server_name, key_id)
);

CREATE TABLE destination (
    part          integer NOT NULL,
    server_name   text    NOT NULL COLLATE "C",
    failures      integer NOT NULL DEFAULT 0,
    retry_after   bigint  NOT NULL DEFAULT 0,     -- ms since 1970: not before
    last_success  bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (part, server_name)
);

-- Where a destination that failed stands, per log partition: all up to pos was delivered. No row: it keeps up.
CREATE TABLE destination_behind (
    part        integer NOT NULL,
    server_name text    NOT NULL COLLATE "C",
    log_part    integer NOT NULL,
    pos         bigint  NOT NULL,
    PRIMARY KEY (part, server_name, log_part)
);

-- Rooms, beside those that it is in, of which a destination that is behind must hear: its last user was kicked, or
-- disinvited, meanwhile.
CREATE TABLE destination_room (
    part        integer NOT NULL,
    server_name text    NOT NULL COLLATE "C",
    log_part    integer NOT NULL,
    room_nid    bigint  NOT NULL,
    PRIMARY KEY (part, server_name, log_part, room_nid)
);

-- How far the log was handed to all the destinations of a partition that keep up.
CREATE TABLE fed_cursor (
    part     integer NOT NULL,                    -- partition of destinations
    log_part integer NOT NULL,
    pos      bigint  NOT NULL,
    PRIMARY KEY (part, log_part)
);

-- EDUs that must arrive: to-device messages and device lists.
CREATE TABLE fed_edu (
    part        integer NOT NULL,
    server_name text    NOT NULL COLLATE "C",
    id          bigint  GENERATED ALWAYS AS IDENTITY,
    origin      text    NOT NULL COLLATE "C",
    edu_type    text    NOT NULL,
    dedup_key   text    COLLATE "C",              -- a later row with the same key replaces an earlier one that was not sent
    content     bytea   NOT NULL,
    PRIMARY KEY (part, server_name, id)
);

-- Answers to transactions that we took, so that a repeated one gets the same.
CREATE TABLE fed_txn (
    part       integer NOT NULL,
    origin     text    NOT NULL COLLATE "C",
    txn_id     text    NOT NULL COLLATE "C",
    response   bytea   NOT NULL,
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, origin, txn_id)
);

CREATE TABLE room_alias (
    part       integer NOT NULL,                  -- of the alias
    alias      text    NOT NULL COLLATE "C",
    room_id    text    NOT NULL COLLATE "C",
    creator    text    NOT NULL COLLATE "C",
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, alias)
);
CREATE INDEX room_alias_room ON room_alias (room_id);

-- +goose Down
DROP TABLE room_alias, fed_txn, fed_edu, fed_cursor, destination_room, destination_behind, destination, server_key, signing_key;
