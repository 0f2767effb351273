-- Application services: what each one has got, in the partition of its id.

-- +goose Up
-- Who sends to the services of a partition, and how far the log was handed to them (package follow).
CREATE TABLE appservice_owner (
    part  integer PRIMARY KEY,
    epoch bigint  NOT NULL
);
CREATE TABLE appservice_cursor (
    part     integer NOT NULL,
    log_part integer NOT NULL,
    pos      bigint  NOT NULL,
    PRIMARY KEY (part, log_part)
);

-- What a service has got: positions of the log, not copies of events. Its newest transaction is stored before it is sent, so that
-- whoever repeats it repeats it byte for byte.
CREATE TABLE appservice_stream (
    part          integer  NOT NULL,
    service_id    text     NOT NULL COLLATE "C",
    txn           bigint   NOT NULL,                -- number of the newest transaction, which is its id
    body          bytea,                            -- of that transaction; null once the service has acknowledged it
    to_device     bytea,                            -- JSON: the to-device messages in it, which are deleted after that
    pos           bigint[] NOT NULL,                -- for each log partition: up to here all is in transactions, or not for the service
    behind        boolean  NOT NULL DEFAULT false,  -- false: and so is all up to appservice_cursor
    last_ok       bigint   NOT NULL DEFAULT 0,      -- ms since 1970: the last answer that acknowledged a transaction
    waiting_since bigint   NOT NULL DEFAULT 0,      -- ms since 1970: how long the oldest thing has waited that the service lacks; 0: none
    failures      integer  NOT NULL DEFAULT 0,      -- attempts in a row that have failed
    failing_since bigint   NOT NULL DEFAULT 0,      -- ms since 1970, of the first of them
    next_try      bigint   NOT NULL DEFAULT 0,      -- ms since 1970: not before, unless the service shows itself
    last_error    text     NOT NULL DEFAULT '',
    PRIMARY KEY (part, service_id)
) WITH (fillfactor = 50);
ALTER TABLE appservice_stream ALTER COLUMN body SET COMPRESSION lz4;

-- +goose Down
DROP TABLE appservice_stream, appservice_cursor, appservice_owner;
