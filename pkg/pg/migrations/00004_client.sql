-- What only the client API needs: all of it lies in the user's partition, but for reports, which lie in the reporter's.

-- +goose Up
-- Work that a request began and that must be finished even if its worker dies: telling rooms of a changed profile or
-- device list, leaving the rooms of a deactivated account. Whoever finds one that is due takes it.
CREATE TABLE user_task (
    part       integer NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    kind       text    NOT NULL COLLATE "C",      -- profile, devices, deactivate
    key        text    NOT NULL COLLATE "C",      -- what tells tasks of one kind apart; a later one replaces it
    version    bigint  NOT NULL,                  -- of each replacement its own: only who finished the last one deletes it
    payload    bytea   NOT NULL,
    due_ts     bigint  NOT NULL,                  -- not before; pushed into the future by who takes it
    attempts   integer NOT NULL DEFAULT 0,
    PRIMARY KEY (part, user_id, kind, key)
) WITH (fillfactor = 50);
CREATE INDEX user_task_due ON user_task (part, due_ts);

-- Whose keys a user should fetch anew, beside what the logs of the user's rooms say: their own, and those of users whose
-- keys they signed on another device.
CREATE TABLE device_notice (
    part    integer NOT NULL,
    user_id text    NOT NULL COLLATE "C",
    target  text    NOT NULL COLLATE "C",
    seq     bigint  NOT NULL,
    PRIMARY KEY (part, user_id, target)
) WITH (fillfactor = 70);
CREATE INDEX device_notice_seq ON device_notice (part, user_id, seq);

CREATE TABLE pusher (
    part                integer NOT NULL,
    user_id             text    NOT NULL COLLATE "C",
    app_id              text    NOT NULL COLLATE "C",
    pushkey             text    NOT NULL COLLATE "C",
    device_id           text    NOT NULL COLLATE "C" DEFAULT '',
    kind                text    NOT NULL,
    app_display_name    text    NOT NULL,
    device_display_name text    NOT NULL,
    profile_tag         text    NOT NULL DEFAULT '',
    lang                text    NOT NULL,
    data                bytea   NOT NULL,
    created_ts          bigint  NOT NULL,
    PRIMARY KEY (part, user_id, app_id, pushkey)
);
-- A pushkey moves to the user who sets it last, unless that one appends.
CREATE INDEX pusher_key ON pusher (part, app_id, pushkey);

-- Server-side key backups.
CREATE TABLE key_backup (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    version   bigint  NOT NULL,
    algorithm text    NOT NULL,
    auth_data bytea   NOT NULL,
    etag      bigint  NOT NULL DEFAULT 0,         -- raised by each change of the keys
    count     bigint  NOT NULL DEFAULT 0,
    deleted   boolean NOT NULL DEFAULT false,     -- kept, so that a version number is never used twice
    PRIMARY KEY (part, user_id, version)
);

CREATE TABLE key_backup_session (
    part                integer NOT NULL,
    user_id             text    NOT NULL COLLATE "C",
    version             bigint  NOT NULL,
    room_id             text    NOT NULL COLLATE "C",
    session_id          text    NOT NULL COLLATE "C",
    first_message_index bigint  NOT NULL,
    forwarded_count     bigint  NOT NULL,
    is_verified         boolean NOT NULL,
    session_data        bytea   NOT NULL,
    PRIMARY KEY (part, user_id, version, room_id, session_id)
);

-- Tokens that prove to third parties who somebody is (SHA-256 only).
CREATE TABLE openid_token (
    part       integer NOT NULL,
    hash       bytea   NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    expires_ts bigint  NOT NULL,
    PRIMARY KEY (part, hash)
);
CREATE INDEX openid_token_expires ON openid_token (part, expires_ts);

-- Reports of rooms, events and users, for the operator.
CREATE TABLE report (
    part       integer NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    id         bigint  GENERATED ALWAYS AS IDENTITY,
    kind       text    NOT NULL,                  -- room, event, user
    room_id    text    NOT NULL DEFAULT '' COLLATE "C",
    event_id   text    NOT NULL DEFAULT '' COLLATE "C",
    target     text    NOT NULL DEFAULT '' COLLATE "C",
    reason     text    NOT NULL,
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, id)
);

-- The words by which local accounts are found: of the localpart and of the display name, in lower case.
CREATE TABLE directory_word (
    part    integer NOT NULL,
    word    text    NOT NULL COLLATE "C",
    user_id text    NOT NULL COLLATE "C",
    PRIMARY KEY (part, word, user_id)
);
CREATE INDEX directory_word_user ON directory_word (part, user_id);

-- Uses of registration tokens that the configuration names.
CREATE TABLE registration_token_use (
    part  integer NOT NULL,
    token text    NOT NULL COLLATE "C",
    used  bigint  NOT NULL,
    PRIMARY KEY (part, token)
);

-- +goose Down
DROP TABLE registration_token_use, directory_word, report, openid_token, key_backup_session, key_backup, pusher,
    device_notice, user_task;
