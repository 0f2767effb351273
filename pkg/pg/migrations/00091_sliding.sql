-- Connections of simplified sliding sync (MSC4186): what a client knows of which rooms. A connection has two positions: the one
-- that the client has proven to have got, and the one of the newest answer. The first is base with delta over it, the second is
-- the first with next over it. Large accounts change a little at a time: only delta and next are written then. The encoding is
-- that of package services/sync/sliding.

-- +goose Up
CREATE TABLE sliding_connection (
    part       integer NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    device_id  text    NOT NULL COLLATE "C",
    conn_id    text    NOT NULL COLLATE "C",
    generation bigint  NOT NULL,              -- random: a connection that began anew refuses the positions of the one before
    n          bigint  NOT NULL,              -- number of the position that the client has got
    base       bytea   NOT NULL,
    delta      bytea   NOT NULL,
    next_n     bigint  NOT NULL,              -- number of the newest answer's position; n: there is no other
    next       bytea   NOT NULL,
    used_ts    bigint  NOT NULL,              -- last use, to the day
    PRIMARY KEY (part, user_id, device_id, conn_id)
) WITH (fillfactor = 80);
CREATE INDEX sliding_connection_used ON sliding_connection (part, used_ts);

-- +goose Down
DROP TABLE sliding_connection;
