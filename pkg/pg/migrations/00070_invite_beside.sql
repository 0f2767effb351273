-- Invites to a room that we are not in which came from other servers while the user had one already. Nobody can tell which of them
-- are true: the first one stays the user's membership, the others take its place when it ends, and their servers help with the join.

-- +goose Up
CREATE TABLE invite_beside (
    part         integer NOT NULL,
    user_id      text    NOT NULL COLLATE "C",
    room_id      text    NOT NULL COLLATE "C",
    server       text    NOT NULL COLLATE "C", -- of who invites: the newest one of each counts
    event_id     text    NOT NULL COLLATE "C",
    room_version text    NOT NULL,
    event        bytea   NOT NULL,
    stripped     bytea,
    came         bigint  NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    PRIMARY KEY (part, user_id, room_id, server)
);

-- +goose Down
DROP TABLE invite_beside;
