-- The index of words (package search). A row for each message, name and topic in a room, if its content is not encrypted. It is made
-- of the log by those who follow it (package follow), and can be made anew at any time: events are the truth.

-- +goose Up
CREATE EXTENSION IF NOT EXISTS btree_gin; -- who owns the database may do this

CREATE TABLE search (
    part      integer  NOT NULL,
    event_nid bigint   NOT NULL,
    room_nid  bigint   NOT NULL,
    ts        bigint   NOT NULL,                  -- origin_server_ts
    field     smallint NOT NULL,                  -- 1 body, 2 name, 3 topic
    words     tsvector NOT NULL,                  -- as package words cuts them
    PRIMARY KEY (part, event_nid)
);
CREATE INDEX search_words ON search USING gin (part, room_nid, words);

CREATE TABLE search_owner (
    part  integer PRIMARY KEY,
    epoch bigint NOT NULL
);
CREATE TABLE search_cursor (
    part     integer NOT NULL,
    log_part integer NOT NULL,
    pos      bigint  NOT NULL,
    PRIMARY KEY (part, log_part)
);

-- +goose Down
DROP TABLE search_cursor, search_owner, search;
